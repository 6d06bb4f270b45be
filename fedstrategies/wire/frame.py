"""The frame around every message: what it is, how large, and whether it arrived whole.

===========  =======  ====================================================================
field        bytes    meaning
===========  =======  ====================================================================
magic        2        ``FS``
version      1        of this format
codec        1        index coding (2 bits), value coding (3 bits), dtype (3 bits)
d            1 to 5   dimension of the vector, as a varint
k            0 to 5   number of values, as a varint; absent where all d are sent
body                  values, then the index set
checksum     4        CRC-32 of everything before it, little-endian
===========  =======  ====================================================================

Sizes are varints (seven bits a byte, low group first) because the smallest messages are the
interesting ones: one coordinate of a convex problem is 8 bytes of value, and a fixed frame of
16 would be most of the message. The frame is 10 bytes there and 16 at d = 2**28.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

import torch

from fedstrategies.wire.errors import WireError
from fedstrategies.wire.reader import Reader, varint

__all__ = [
    "CODEC_AT",
    "DTYPES",
    "Header",
    "IndexCoding",
    "ValueCoding",
    "open_frame",
    "seal",
]

_MAGIC = b"FS"
_VERSION = 1
_CHECKSUM_BYTES = 4
_FIXED_BYTES = 4

CODEC_AT = 3
"""Byte of the frame that states codings and dtype."""

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Value types a frame can state, by code."""


class IndexCoding(IntEnum):
    """How the frame says which coordinates its values belong to."""

    DENSE = 0
    SEED = 1
    GAPS = 2


class ValueCoding(IntEnum):
    """How the frame says the values."""

    FLOATS = 0
    POWERS = 1
    ROUNDED_FLOAT16 = 2
    ROUNDED_BFLOAT16 = 3
    LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a frame says of its body.

    Attributes
    ----------
    index_coding : IndexCoding
        Of the index set.
    value_coding : ValueCoding
        Of the values.
    dtype : torch.dtype
        Of the values after decoding.
    dimension, count : int
        d and k.
    """

    index_coding: IndexCoding
    value_coding: ValueCoding
    dtype: torch.dtype
    dimension: int
    count: int

    def to_bytes(self) -> bytes:
        """The frame's first bytes."""
        codec = self.index_coding << 6 | self.value_coding << 3 | DTYPES.index(self.dtype)
        count = b"" if self.index_coding == IndexCoding.DENSE else varint(self.count)
        return _MAGIC + bytes((_VERSION, codec)) + varint(self.dimension) + count

    @property
    def frame_size(self) -> int:
        """Bytes of the frame without its body."""
        return len(self.to_bytes()) + _CHECKSUM_BYTES


def seal(header: Header, body: bytes) -> bytes:
    """The whole frame."""
    head = header.to_bytes()
    checksum = zlib.crc32(body, zlib.crc32(head))
    return b"".join((head, body, checksum.to_bytes(_CHECKSUM_BYTES, "little")))


def open_frame(blob: bytes, *, dimension: int, name: str) -> tuple[Header, Reader]:
    """Check the frame of ``blob`` against its checksum and the expected dimension.

    Returns
    -------
    Header
        With ``count <= dimension``.
    Reader
        At the first byte of the body.

    Raises
    ------
    WireError
        If this is no frame of this version, it is damaged, or it is of another vector.
    """
    content = len(blob) - _CHECKSUM_BYTES
    if content < _FIXED_BYTES:
        raise WireError(name, len(blob), f"{len(blob)} bytes are too few for a frame")
    magic, version, codec = blob[:2], blob[2], blob[3]
    if magic != _MAGIC:
        raise WireError(name, 0, f"not a fedstrategies frame: {magic!r}, expected {_MAGIC!r}")
    if version != _VERSION:
        raise WireError(
            name,
            2,
            f"frame of format {version}, expected {_VERSION}; "
            "run the same release of fedstrategies on both sides",
        )
    found = int.from_bytes(blob[content:], "little")
    expected = zlib.crc32(memoryview(blob)[:content])
    if found != expected:
        raise WireError(
            name, content, f"checksum {found:08x}, expected {expected:08x}: damaged or cut off"
        )
    try:
        index_coding, value_coding = IndexCoding(codec >> 6), ValueCoding(codec >> 3 & 7)
        dtype = DTYPES[codec & 7]
    except (ValueError, IndexError) as error:
        raise WireError(name, CODEC_AT, f"unknown codec {codec:#04x}: {error}") from None
    reader = Reader(blob, start=_FIXED_BYTES, end=content, name=name)
    declared = reader.varint("the dimension")
    if declared != dimension:
        raise reader.error(f"dimension {declared}, expected {dimension}", at=_FIXED_BYTES)
    count, at = declared, reader.position
    if index_coding != IndexCoding.DENSE:
        count = reader.varint("the count")
    if count > declared:
        raise reader.error(f"{count} values of a vector of dimension {declared}", at=at)
    header = Header(
        index_coding=index_coding,
        value_coding=value_coding,
        dtype=dtype,
        dimension=declared,
        count=count,
    )
    return header, reader
