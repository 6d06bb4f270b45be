"""The k largest magnitudes of each row, ties by lowest index.

Ties are the normal case on sparse data (duplicate columns), so the rule is part of the
operator: among equal magnitudes the lowest index comes first, on every device.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["largest"]

# Where a sample pays: long rows of which little is kept.
_LONG = 1 << 16
_SAMPLE = 1 << 12
_SPARSE = 0.05

_INTEGER_OF = {torch.float64: torch.int64, torch.float32: torch.int32}

_Integers = npt.NDArray[np.signedinteger]


def largest(magnitudes: Tensor, k: int) -> Tensor:
    """Indices of the k largest entries of each row.

    Parameters
    ----------
    magnitudes : Tensor
        Shape (C, d), float64 or float32, with the sign bit clear (the result of ``abs``).
        NaN counts as larger than infinity.
    k : int
        ``1 <= k <= d``.

    Returns
    -------
    Tensor
        int64, shape (C, k), ascending within a row.
    """
    # Without the sign bit floats sort as their bit patterns do, NaN last; integers partition
    # faster and every comparison is total.
    patterns = magnitudes.contiguous().view(_INTEGER_OF[magnitudes.dtype])
    if patterns.device.type != "cpu":
        return _largest_on_device(patterns, k)
    rows, dimension = patterns.shape
    if rows and dimension >= _LONG and k <= _SPARSE * dimension:
        return torch.from_numpy(np.stack([_largest_of_long(row, k) for row in patterns.numpy()]))
    return torch.from_numpy(_largest(patterns.numpy(), k))


def _largest(patterns: _Integers, k: int) -> npt.NDArray[np.int64]:
    rows, dimension = patterns.shape
    threshold: _Integers = np.partition(patterns, dimension - k, axis=1)[:, dimension - k, None]
    chosen = patterns >= threshold
    if np.count_nonzero(chosen) > rows * k:
        _drop_surplus_ties(chosen, patterns, threshold, k)
    flat = np.flatnonzero(chosen).reshape(rows, k)
    flat -= dimension * np.arange(rows)[:, None]
    return flat


def _largest_of_long(row: _Integers, k: int) -> npt.NDArray[np.int64]:
    """`_largest` of one row, partitioning only what a sample says may be among the k.

    The sample's guess is a lower bound of the threshold if at least k entries reach it, and
    then nothing is lost; if not, the whole row is partitioned.
    """
    sample = row[:: len(row) // _SAMPLE]
    expected = len(sample) * k / len(row)
    guess = len(sample) - 1 - int(expected + 5 * sqrt(expected) + 1)
    candidates = np.flatnonzero(row >= np.partition(sample, guess)[guess])
    chosen: npt.NDArray[np.int64]
    if len(candidates) < k:
        chosen = _largest(row[None], k)[0]
    else:
        chosen = candidates[_largest(row[None, candidates], k)[0]]
    return chosen


def _drop_surplus_ties(
    chosen: npt.NDArray[np.bool_], patterns: _Integers, threshold: _Integers, k: int
) -> None:
    """In rows with more than k chosen, clear the last of those that equal the threshold."""
    surplus = np.count_nonzero(chosen, axis=1) - k
    tied = np.flatnonzero(surplus)
    surplus = surplus[tied]
    equal = np.flatnonzero(patterns[tied] == threshold[tied])
    # Row by row, ``equal`` ends where its flat positions leave the row; clear what comes last.
    ends = np.searchsorted(equal, patterns.shape[1] * np.arange(1, len(tied) + 1))
    last = np.arange(surplus.sum()) + np.repeat(ends - np.cumsum(surplus), surplus)
    corrected = chosen[tied]
    corrected.reshape(-1)[equal[last]] = False
    chosen[tied] = corrected


def _largest_on_device(patterns: Tensor, k: int) -> Tensor:
    threshold = patterns.topk(k, dim=1).values[:, -1:]
    above = patterns > threshold
    equal = patterns == threshold
    wanted = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= wanted))
    return chosen.nonzero()[:, 1].view(len(patterns), k)
