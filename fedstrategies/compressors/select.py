"""The k entries of largest magnitude of each row, ties by lowest index.

Ties are the normal case on sparse data (duplicate columns), so the rule is part of the
operator: among equal magnitudes the lowest index comes first, on every device.

Without the sign bit floats sort as their bit patterns do, NaN last; integers partition faster
and every comparison is total. On the CPU four methods give the same indices: repeated maxima
where few entries are kept, a partition of the row, a partition of what a sample says may be
among the k, and the entries above zero with the first zeros.
"""

from __future__ import annotations

from math import sqrt
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["largest"]

# One sweep for a maximum takes a fifth of the time of a partition of a short row.
_FEW = 6
# Where a sample pays: long rows of which little is kept.
_LONG = 1 << 15
_SPARSE = 0.125
_SMALLEST_SAMPLE, _LARGEST_SAMPLE = 1 << 11, 1 << 16
# Entries at work at a time, so that temporaries stay in a core's second-level cache.
_BLOCK_BYTES = 1 << 19

_INTEGER_OF = {torch.float64: torch.int64, torch.float32: torch.int32}

_Patterns = npt.NDArray[np.signedinteger]
_Indices = npt.NDArray[np.int64]


def largest(vectors: Tensor, k: int) -> Tensor:
    """Indices of the k entries of largest magnitude of each row.

    Parameters
    ----------
    vectors : Tensor
        Shape (C, d), float64 or float32. NaN counts as larger than infinity (one NaN against
        another by its bits), -0.0 as 0.0.
    k : int
        ``1 <= k <= d``.

    Returns
    -------
    Tensor
        int64, shape (C, k), ascending within a row.

    Raises
    ------
    ValueError
        For another dtype.
    """
    if vectors.dtype not in _INTEGER_OF:
        raise ValueError(f"top-k needs float64 or float32 vectors, got {vectors.dtype}")
    patterns = vectors.detach().contiguous().view(_INTEGER_OF[vectors.dtype])
    if patterns.device.type != "cpu":
        return _largest_on_device(patterns, k)
    rows, dimension = patterns.shape
    chosen = np.empty((rows, k), dtype=np.int64)
    if dimension >= _LONG and k <= _SPARSE * dimension:
        for row in range(rows):
            chosen[row] = _largest_of_long(patterns[row].numpy(), k)
        return torch.from_numpy(chosen)
    step = max(1, _BLOCK_BYTES // (patterns.itemsize * dimension))
    for start in range(0, rows, step):
        magnitudes = _magnitudes(patterns[start : start + step].numpy())
        method = _maxima if k <= _FEW else _partitioned
        method(magnitudes, k, chosen[start : start + step])
    return torch.from_numpy(chosen)


def _magnitudes(patterns: _Patterns, out: _Patterns | None = None) -> _Patterns:
    """The patterns without their sign bit."""
    masked = np.bitwise_and(patterns, np.iinfo(patterns.dtype).max, out=out)
    return cast(_Patterns, masked)


def _maxima(magnitudes: _Patterns, k: int, indices: _Indices) -> None:
    """k sweeps, each for the first of the largest; overwrites ``magnitudes``."""
    rows, dimension = magnitudes.shape
    flat, starts = magnitudes.reshape(-1), dimension * np.arange(rows)
    chosen = np.empty((k, rows), dtype=np.int64)
    for sweep in range(k):
        found = magnitudes.argmax(axis=1, out=chosen[sweep])
        if sweep + 1 < k:
            flat[found + starts] = -1
    indices[:] = chosen.T
    indices.sort(axis=1)


def _partitioned(magnitudes: _Patterns, k: int, indices: _Indices) -> None:
    """All entries from the k-th largest on, less the last of those that equal it."""
    rows, dimension = magnitudes.shape
    threshold = np.partition(magnitudes, dimension - k, axis=1)[:, dimension - k, None]
    chosen = magnitudes >= threshold
    if np.count_nonzero(chosen) > rows * k:
        _drop_surplus_ties(chosen, magnitudes, threshold, k)
    flat = np.flatnonzero(chosen).reshape(rows, k)
    np.subtract(flat, dimension * np.arange(rows)[:, None], out=indices)


def _drop_surplus_ties(
    chosen: npt.NDArray[np.bool_], magnitudes: _Patterns, threshold: _Patterns, k: int
) -> None:
    """In rows with more than k chosen, clear the last of those that equal the threshold."""
    rows, dimension = chosen.shape
    surplus = chosen.view(np.uint8).sum(axis=1, dtype=np.int64) - k
    equal = np.flatnonzero(magnitudes == threshold)
    # Row by row, ``equal`` ends where its flat positions leave the row; clear what comes last.
    ends = np.searchsorted(equal, dimension * np.arange(1, rows + 1))
    last = np.arange(surplus.sum()) + np.repeat(ends - np.cumsum(surplus), surplus)
    chosen.reshape(-1)[equal[last]] = False


def _largest_of_long(row: _Patterns, k: int) -> _Indices:
    """`largest` of one row, partitioning only what a sample says may be among the k.

    The sample's guess is a lower bound of the threshold if at least k entries reach it, and
    then nothing is lost; if not, the whole row is partitioned.
    """
    size = min(max(len(row) >> 6, _SMALLEST_SAMPLE), _LARGEST_SAMPLE)
    sample = _magnitudes(row[:: len(row) // size])
    expected = len(sample) * k / len(row)
    place = len(sample) - 1 - int(expected + 5 * sqrt(expected) + 1)
    # A guess of zero would make candidates of the whole row.
    guess = max(int(np.partition(sample, place)[place]), 1)
    candidates, magnitudes = _at_least(row, guess)
    if len(candidates) >= k:
        chosen: _Indices = candidates[_partition_one(magnitudes, k)]
        return chosen
    if guess == 1:
        return _with_first_zeros(row, candidates, k)
    return _partition_one(_magnitudes(row), k)


def _partition_one(magnitudes: _Patterns, k: int) -> _Indices:
    """`_partitioned` of one row (d,)."""
    indices = np.empty((1, k), dtype=np.int64)
    _partitioned(magnitudes[None], k, indices)
    return cast(_Indices, indices[0])


def _at_least(row: _Patterns, threshold: int) -> tuple[_Indices, _Patterns]:
    """Indices and magnitudes of all entries from ``threshold`` on, in one pass over the row."""
    size = _BLOCK_BYTES // row.itemsize
    magnitudes, reaches = np.empty(size, dtype=row.dtype), np.empty(size, dtype=np.bool_)
    indices: list[_Indices] = []
    found: list[_Patterns] = []
    for start in range(0, len(row), size):
        block = row[start : start + size]
        scratch = _magnitudes(block, magnitudes[: len(block)])
        at = np.flatnonzero(np.greater_equal(scratch, threshold, out=reaches[: len(block)]))
        found.append(scratch[at])
        at += start
        indices.append(at)
    return np.concatenate(indices), np.concatenate(found)


def _with_first_zeros(row: _Patterns, nonzero: _Indices, k: int) -> _Indices:
    """The fewer than k entries that are not zero, and the first zeros."""
    missing = k - len(nonzero)
    # Among the first k entries are at least k - len(nonzero) zeros.
    zeros = np.flatnonzero(_magnitudes(row[:k]) == 0)[:missing]
    indices = np.concatenate([nonzero, zeros])
    indices.sort()
    return indices


def _largest_on_device(patterns: Tensor, k: int) -> Tensor:
    magnitudes = patterns & torch.iinfo(patterns.dtype).max
    threshold = magnitudes.topk(k, dim=1).values[:, -1:]
    above = magnitudes > threshold
    equal = magnitudes == threshold
    wanted = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= wanted))
    return chosen.nonzero()[:, 1].view(len(magnitudes), k)
