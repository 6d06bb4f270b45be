"""Payload <-> bytes, and how many bytes it would be.

The coding is a function of the payload alone, so that `encoded_sizes` can say what `encode`
would return without doing it, and every message has exactly one encoding: a blob that decodes
encodes to itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Floats
from fedstrategies.random import sample_without_replacement
from fedstrategies.wire.errors import WireError
from fedstrategies.wire.frame import CODEC_AT, Header, IndexCoding, open_frame, seal
from fedstrategies.wire.indices import (
    KEY_BYTES,
    decode_gaps,
    encode_gaps,
    gap_sizes,
    is_seed_cheaper,
)
from fedstrategies.wire.values import coding_of, decode_values, encode_values, value_sizes

__all__ = [
    "decode",
    "decode_vector",
    "encode",
    "encode_rows",
    "encode_vector",
    "encoded_size",
    "encoded_sizes",
]

_MAX_DIMENSION = 2**35 - 1


def _header(payload: Payload) -> Header:
    """The frame all rows of ``payload`` share."""
    value_coding, dtype, count = coding_of(payload.values)
    dimension = payload.dimension
    if not count <= dimension <= _MAX_DIMENSION:
        raise WireError("payload", None, f"{count} values of a vector of dimension {dimension}")
    if payload.indices is None:
        index_coding = IndexCoding.DENSE
        if count != dimension:
            raise WireError(
                "payload", None, f"{count} values without indices; expected all {dimension}"
            )
    elif payload.keys is not None and is_seed_cheaper(dimension, count):
        index_coding = IndexCoding.SEED
    else:
        index_coding = IndexCoding.GAPS
    if payload.indices is not None and payload.indices.shape[1] != count:
        raise WireError("payload", None, f"{payload.indices.shape[1]} indices, {count} values")
    return Header(
        index_coding=index_coding,
        value_coding=value_coding,
        dtype=dtype,
        dimension=dimension,
        count=count,
    )


def encode(payload: Payload, row: int = 0) -> bytes:
    """The message of one client as bytes.

    Parameters
    ----------
    payload : Payload
        C messages.
    row : int
        Which of them.

    Returns
    -------
    bytes
        One frame. Its index set is nothing (all coordinates), a key of 8 bytes (drawn sets,
        unless the gaps are surely shorter; the decoded payload then has no ``keys``), or the
        gaps. At most ``1.02 (log2 C(d,k)/8 + k value_bytes) + 24`` bytes: for 32- and 64-bit
        floats whatever the set; for narrower values if it is uniform or denser in some part
        (a grid or a block: up to 2.1 % above log2 C(d,k) + values with 16 bits, 4.5 % with
        five, 7 % with two, where a uniform set of density 0.38 takes 2.4 %).

    Raises
    ------
    WireError
        If the payload contradicts its own description (sizes, order of indices, a value its
        coding cannot say).
    """
    return _encode_row(_header(payload), payload, row)


def encode_rows(payload: Payload) -> list[bytes]:
    """The messages of all clients, in order; see `encode`.

    Parameters
    ----------
    payload : Payload
        C messages.

    Returns
    -------
    list of bytes
        One frame each.

    Raises
    ------
    WireError
        As `encode`.
    """
    header, local = _header(payload), payload.cpu()
    return [_encode_row(header, local, row) for row in range(len(payload))]


def _encode_row(header: Header, payload: Payload, row: int) -> bytes:
    body = encode_values(payload.values, row)
    if header.index_coding == IndexCoding.SEED:
        assert payload.keys is not None
        body += int(payload.keys[row]).to_bytes(KEY_BYTES, "little", signed=True)
    elif header.index_coding == IndexCoding.GAPS:
        assert payload.indices is not None
        body += encode_gaps(payload.indices[row].cpu().numpy(), header.dimension)
    return seal(header, body)


def encoded_sizes(payload: Payload) -> Tensor:
    """Lengths of what `encode` returns for each row, without encoding.

    Parameters
    ----------
    payload : Payload
        C messages.

    Returns
    -------
    Tensor
        int64 bytes, shape (C,); on the payload's device where they depend on its entries, else
        on the CPU.

    Raises
    ------
    WireError
        If the payload contradicts its own description; single values are not looked at.
    """
    fixed, varying = _sizes(payload)
    if varying is None:
        return torch.full((len(payload),), fixed, dtype=torch.int64)
    return varying + fixed


def encoded_size(payload: Payload) -> int:
    """The sum of `encoded_sizes`: what all rows of ``payload`` weigh together.

    Parameters
    ----------
    payload : Payload
        C messages.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    WireError
        See `encoded_sizes`.
    """
    fixed, varying = _sizes(payload)
    return len(payload) * fixed + (0 if varying is None else int(varying.sum()))


def _sizes(payload: Payload) -> tuple[int, Tensor | None]:
    """What every row weighs, and what each weighs besides: int64, shape (C,)."""
    header = _header(payload)
    fixed, varying = header.frame_size, None
    values = value_sizes(payload.values)
    if isinstance(values, Tensor):
        varying = values
    else:
        fixed += values
    if header.index_coding == IndexCoding.SEED:
        fixed += KEY_BYTES
    elif header.index_coding == IndexCoding.GAPS:
        assert payload.indices is not None
        gaps = gap_sizes(payload.indices, header.dimension)
        varying = gaps if varying is None else varying + gaps
    return fixed, varying


def decode(
    blob: bytes,
    *,
    dimension: int,
    finite: bool = True,
    name: str = "payload",
    out: Tensor | None = None,
) -> Payload:
    """The payload (C = 1, on the CPU) of one frame; inverse of `encode`.

    Everything is checked before memory is taken for it: no blob makes this function take more
    than 240 times its own length plus 64 ``dimension`` bytes.

    Parameters
    ----------
    blob : bytes
        What arrived.
    dimension : int
        d, which the frame must state too.
    finite : bool
        Whether infinite values and NaN are refused.
    name : str
        What the message is called in errors.
    out : Tensor or None
        Where the floats of a message are put, shape (1, k) on the CPU; what it holds after an
        error is undefined. Ignored where the message's values are of another type or number.

    Raises
    ------
    WireError
        If the blob is anything but the one encoding of a valid payload of this dimension. No
        other exception is raised, whatever the bytes.
    """
    header, reader = open_frame(blob, dimension=dimension, name=name)
    count = header.count
    values = decode_values(reader, header.value_coding, header.dtype, count, finite=finite, out=out)
    if header.index_coding == IndexCoding.GAPS:
        indices = torch.from_numpy(decode_gaps(reader, dimension, count).reshape(1, count))
        return Payload(dimension=dimension, values=values, indices=indices)
    if header.index_coding == IndexCoding.DENSE:
        reader.finish()
        return Payload(dimension=dimension, values=values)
    if not is_seed_cheaper(dimension, count):
        raise reader.error(f"{count} of {dimension} indices are sent as gaps, found a seed")
    drawn_by = reader.take(KEY_BYTES, "the key of the index set")
    reader.finish()
    keys = torch.from_numpy(np.frombuffer(drawn_by, dtype="<i8").astype(np.int64))
    indices = sample_without_replacement(keys, dimension, count)
    return Payload(dimension=dimension, values=values, indices=indices, keys=keys)


def encode_vector(vector: Tensor) -> bytes:
    """A dense vector as one frame: 9 to 13 bytes more than its numbers.

    Parameters
    ----------
    vector : Tensor
        Shape (d,), of a floating-point dtype that the wire has a coding for.

    Raises
    ------
    WireError
        If its dtype has no coding.
    """
    return encode(Payload(dimension=len(vector), values=Floats(vector.unsqueeze(0))))


def decode_vector(
    blob: bytes, *, dimension: int, finite: bool = True, name: str = "vector"
) -> Tensor:
    """The dense vector (d,) of one frame, on the CPU; inverse of `encode_vector`.

    Parameters
    ----------
    blob : bytes
        One frame.
    dimension : int
        d, which the frame must say as well.
    finite : bool
        Whether infinities and NaN are refused.
    name : str
        What the blob is called in errors.

    Raises
    ------
    WireError
        As `decode`, and if the frame holds anything but a dense vector of floats.
    """
    payload = decode(blob, dimension=dimension, finite=finite, name=name)
    if payload.indices is not None or not isinstance(payload.values, Floats):
        raise WireError(name, CODEC_AT, "a compressed message, expected a dense vector")
    return payload.values.data[0]
