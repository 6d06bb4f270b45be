"""Index sets as Golomb-Rice coded gaps, within a few per cent of their entropy.

An ascending set i_1 < ... < i_m of {0, ..., d-1} is its gaps g_j = i_j - i_{j-1} - 1 (with
i_0 = -1). Rice's code with parameter b writes floor(g / 2**b) in unary and the low b bits as
they are: ``m (b + 1) + sum_j floor(g_j / 2**b)`` bits. With ``2**b <= d/m < 2**(b+1)`` that
is at most 0.56 m bits above ``log2 C(d, m)`` for *every* set (sum g_j <= d - m) and about
0.03 m to 0.11 m above it for a uniform one, whose gaps are nearly geometric, the case in which
Golomb codes are optimal.

One code covers all densities: b = 0 *is* the bitmap (cut after its last one), and a set of
more than half of the coordinates is sent as its complement.

The strings themselves are written and read in `fedstrategies.wire.rice`.

Sources: Golomb, Run-length encodings (IEEE Trans. Inf. Theory, 1966); Rice, Some practical
universal noiseless coding techniques (JPL 79-22, 1979).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrategies.wire.bits import bytes_for
from fedstrategies.wire.reader import Reader
from fedstrategies.wire.rice import (
    FEW,
    gaps_of,
    order_error,
    parameter_bytes,
    parameters,
    read_few,
    read_many,
    write_few,
    write_many,
)

__all__ = ["KEY_BYTES", "decode_gaps", "encode_gaps", "gap_sizes", "is_seed_cheaper"]

Indices = NDArray[np.int64]

_Array = TypeVar("_Array", Indices, Tensor)

KEY_BYTES = 8
"""What a set drawn from a known key costs instead."""


def _members(dimension: int, count: int) -> int:
    """Size of the set that is coded: the chosen coordinates or the others."""
    return min(count, dimension - count)


def is_seed_cheaper(dimension: int, count: int) -> bool:
    """Whether a key takes no more room than the dearest set of this size would.

    Depends on the sizes alone, so that all messages of a cohort are of one kind. A few
    coordinates of a convex problem take 1 to 7 bytes as gaps.
    """
    members = _members(dimension, count)
    if members == 0:
        return False
    options = parameters(dimension, members)
    cheapest = min(members * (b + 1) + ((dimension - members) >> b) for b in options)
    return bytes_for(cheapest) + parameter_bytes(options) >= KEY_BYTES


def _complement(indices: Indices, dimension: int) -> Indices:
    absent = np.ones(dimension, dtype=np.bool_)
    absent[indices] = False
    return np.flatnonzero(absent)


def encode_gaps(indices: Indices, dimension: int) -> bytes:
    """The set as bytes.

    Parameters
    ----------
    indices : ndarray
        int64, shape (k,), strictly ascending, in {0, ..., dimension-1}.
    dimension : int
        d.

    Returns
    -------
    bytes
        The parameter b (one byte, only where there is a choice), then the bit string.

    Raises
    ------
    WireError
        If the indices are out of order or range.
    """
    if len(indices) < FEW and 2 * len(indices) <= dimension:
        return write_few(indices.tolist(), dimension)
    gaps = gaps_of(indices)
    if len(indices) and (gaps.min() < 0 or indices[-1] >= dimension):
        raise order_error(dimension)
    if 2 * len(indices) > dimension:
        absent = _complement(indices, dimension)
        if len(absent) < FEW:
            return write_few(absent.tolist(), dimension)
        gaps = gaps_of(absent)
    return write_many(gaps, parameters(dimension, len(gaps)))


def gap_sizes(indices: Tensor, dimension: int) -> Tensor:
    """Lengths of what `encode_gaps` returns for each row of ``indices`` (C, k): int64 (C,)."""
    clients, count = indices.shape
    if 2 * count > dimension:
        absent = torch.ones((clients, dimension), dtype=torch.bool, device=indices.device)
        absent.scatter_(1, indices, False)
        indices = absent.nonzero()[:, 1].view(clients, dimension - count)
        count = dimension - count
    if count == 0:
        return torch.zeros(clients, dtype=torch.int64, device=indices.device)
    options = parameters(dimension, count)
    if indices.device.type == "cpu":
        # numpy takes half of torch's time on the few thousand integers of a usual cohort.
        return torch.from_numpy(_rice_sizes(indices.numpy(), options))
    return _rice_sizes(indices, options)


def _rice_sizes(indices: _Array, options: range) -> _Array:
    """Bytes (C,) of each row of ``indices`` (C, k) with the best b for it."""
    count = indices.shape[1]
    # Differences along one long row, then mended at the seams: rows of a few entries are slow.
    flat = indices.reshape(-1)
    differences = flat - 1
    differences[1:] -= flat[:-1]
    gaps = differences.reshape(indices.shape)
    gaps[:, 0] = indices[:, 0]
    gaps >>= options[0]
    bits: _Array = _row_sums(gaps)
    bits += count * (options[0] + 1)
    for b in options[1:]:
        gaps >>= 1
        saving = bits - (_row_sums(gaps) + count * (b + 1))
        bits -= saving.clip(min=0)
    bits += 7
    bits >>= 3
    bits += parameter_bytes(options)
    return bits


def _row_sums(rows: _Array) -> _Array:
    if isinstance(rows, Tensor):
        return rows.sum(1)
    # On rows of a few entries sum(1) is five times slower, on long ones as much faster.
    if rows.shape[1] == 1:
        return rows[:, 0].copy()
    few = rows.shape[1] < FEW
    sums: Indices = rows @ np.ones(rows.shape[1], dtype=np.int64) if few else rows.sum(1)
    return sums


def decode_gaps(reader: Reader, dimension: int, count: int) -> Indices:
    """The set that takes up the rest of ``reader``; inverse of `encode_gaps`.

    Only the canonical encoding is accepted. Working memory is below 240 times the bytes read,
    plus 9 ``dimension`` bytes for a complement.

    Raises
    ------
    WireError
        If b is not the best one, the string is too short or long, an index is out of range,
        or padding is not zero.
    """
    members = _members(dimension, count)
    if members == 0:
        reader.finish()
        return np.arange(count, dtype=np.int64)
    options = parameters(dimension, members)
    start = reader.position
    b = options[0]
    if parameter_bytes(options):
        b = reader.take(1, "the Rice parameter")[0]
        if b not in options:
            raise reader.error(
                f"Rice parameter {b}, expected {options[0]} to {options[-1]}", at=start
            )
    at, size = reader.position, reader.remaining
    # No unary part is longer, so neither is a valid string; with this the sums below are small.
    longest = members + ((dimension - members) >> b)
    if not bytes_for(members * (b + 1)) <= size <= bytes_for(longest + members * b):
        raise reader.error(f"{size} bytes cannot hold {members} gaps of Rice parameter {b}")
    if len(options) == 1:
        indices = read_few(reader, members, b)
    else:
        indices = read_many(reader, members, b, options, start)
    if indices[-1] >= dimension:
        raise reader.error(
            f"index {indices[-1]} is out of range, expected below {dimension}", at=at
        )
    return _complement(indices, dimension) if members < count else indices
