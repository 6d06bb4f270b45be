"""Tensors <-> bytes: one framed, checksummed, versioned and lossless blob per direction."""

from fedstrategies.wire.codec import (
    decode,
    decode_vector,
    encode,
    encode_rows,
    encode_vector,
    encoded_size,
    encoded_sizes,
)
from fedstrategies.wire.errors import WireError

__all__ = [
    "WireError",
    "decode",
    "decode_vector",
    "encode",
    "encode_rows",
    "encode_vector",
    "encoded_size",
    "encoded_sizes",
]
