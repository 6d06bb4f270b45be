"""Uniform subsets of fixed size, one per key.

Three methods, each the cheapest in its range; which one is used depends on the population and
the size alone, never on the number of keys or the device. Each exists twice, in numpy for the
CPU (two to five times faster than torch there) and in torch for other devices; both give the
same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedstrategies._splitmix import GOLDEN, integers_below, mix_integer, random_bits, uniforms

__all__ = ["sample_without_replacement"]

_FLOYD_LIMIT = 32
# Where one in so many is kept, hashing every element is cheaper than sorting the drawn ones.
_DENSE_RATIO, _DENSE_RATIO_OF_LARGE = 32, 8
_LARGE = 1 << 16

_Integers = npt.NDArray[np.signedinteger]
_Method = Callable[[Tensor, int, int], Tensor]


def sample_without_replacement(keys: Tensor, population: int, count: int) -> Tensor:
    """A uniform ``count``-subset of {0, ..., population-1} for each key.

    The method depends on (population, count) alone, never on the number of keys, so that one
    client draws what it would draw within any cohort: Floyd's algorithm for up to 32; the
    smallest hashes where at least one in 32 is kept (one in 8 from a population of 65,536 on);
    else the first distinct values of a stream.

    Parameters
    ----------
    keys : Tensor
        int64, shape (C,).
    population, count : int
        ``0 <= count <= population``.

    Returns
    -------
    Tensor
        int64 indices in ascending order, shape (C, count).

    Raises
    ------
    ValueError
        If ``count`` is not between 0 and ``population``.
    """
    if not 0 <= count <= population:
        raise ValueError(f"cannot draw {count} of {population} without replacement")
    if count == population:
        everything = torch.arange(population, dtype=torch.int64, device=keys.device)
        return everything.expand(len(keys), population).clone()
    on_cpu = keys.device.type == "cpu"
    if count == 1 and not (on_cpu and len(keys) == 1):
        return integers_below(keys, 1, population)
    method: _Method
    if count <= _FLOYD_LIMIT:
        method = floyd if on_cpu else floyd_on_device
    elif population <= count * (_DENSE_RATIO if population < _LARGE else _DENSE_RATIO_OF_LARGE):
        method = smallest_hashes if on_cpu else smallest_hashes_on_device
    else:
        method = first_distinct if on_cpu else first_distinct_on_device
    return method(keys, population, count)


def floyd(keys: Tensor, population: int, count: int) -> Tensor:
    """Floyd's algorithm: ``count`` steps, each vectorised over the keys; O(count**2) work.

    Step j draws from {0, ..., m} with ``m = population - count + j`` and takes m itself where
    the draw is already in the set.
    """
    if len(keys) == 1:
        alone = _floyd_of_one(int(keys), population, count)
        return torch.from_numpy(np.array([alone], dtype=np.int64))
    bounds = np.arange(population - count + 1, population + 1)
    # One step a row, so that every comparison runs over contiguous memory.
    chosen: _Integers = (uniforms(keys, count).numpy() * bounds).astype(np.int64).T.copy()
    for step in range(1, count):
        taken = (chosen[:step] == chosen[step]).any(axis=0)
        chosen[step][taken] = population - count + step
    drawn = np.ascontiguousarray(chosen.T)
    drawn.sort(axis=1)
    return torch.from_numpy(drawn)


def _floyd_of_one(key: int, population: int, count: int) -> list[int]:
    """`floyd` of one key in Python's numbers: a message's few draws cost less than an array."""
    chosen: set[int] = set()
    for step in range(count):
        newcomer = population - count + step
        uniform = (mix_integer(key + (step + 1) * GOLDEN) >> 11) * 2.0**-53
        pick = int(uniform * (newcomer + 1))
        chosen.add(newcomer if pick in chosen else pick)
    return sorted(chosen)


def floyd_on_device(keys: Tensor, population: int, count: int) -> Tensor:
    """`floyd` in torch."""
    draws = uniforms(keys, count)
    chosen = torch.full((len(keys), count), -1, dtype=torch.int64, device=keys.device)
    for step in range(count):
        newcomer = population - count + step
        pick = (draws[:, step] * (newcomer + 1)).to(torch.int64)
        taken = (chosen[:, :step] == pick.unsqueeze(-1)).any(dim=1)
        chosen[:, step] = torch.where(taken, newcomer, pick)
    return chosen.sort(dim=1).values


def smallest_hashes(keys: Tensor, population: int, count: int) -> Tensor:
    """Hash every element and keep the ``count`` smallest (as int64): O(population) work.

    The hash is a bijection of distinct counters, so no two elements of a row tie.
    """
    if population >= _LARGE:
        rows = [
            _smallest_of_many(keys[row : row + 1], population, count) for row in range(len(keys))
        ]
        return torch.from_numpy(np.array(rows, dtype=np.int64).reshape(len(keys), count))
    hashes: _Integers = random_bits(keys, population).numpy()
    last = np.partition(hashes, count - 1, axis=1)[:, count - 1 : count]
    flat = np.flatnonzero(hashes <= last).reshape(len(keys), count)
    return torch.from_numpy(flat - population * np.arange(len(keys))[:, None])


def _smallest_of_many(key: Tensor, population: int, count: int) -> _Integers:
    """`smallest_hashes` of one key, in memory for little more than the kept ones."""
    for bound in (_expected_bound(population, count), 2**63 - 1):
        kept: list[_Integers] = []
        kept_hashes: list[_Integers] = []
        for start in range(0, population, _LARGE):
            block = random_bits(key, min(_LARGE, population - start), skip=start)[0].numpy()
            below = np.flatnonzero(block <= bound)
            kept_hashes.append(block[below])
            below += start
            kept.append(below)
        indices, hashes = np.concatenate(kept), np.concatenate(kept_hashes)
        if len(indices) >= count:
            break
    chosen: _Integers = indices[hashes <= np.partition(hashes, count - 1)[count - 1]]
    return chosen


def _expected_bound(population: int, count: int) -> int:
    """What ``count`` of ``population`` uniform int64 stay below, but for one draw in millions.

    Five standard deviations above the expected one.
    """
    share = (count + 5 * sqrt(count) + 1) / population
    return min(int(share * 2**64) - 2**63, 2**63 - 1)


def smallest_hashes_on_device(keys: Tensor, population: int, count: int) -> Tensor:
    """`smallest_hashes` in torch."""
    order = random_bits(keys, population).argsort(dim=1)
    return order[:, :count].sort(dim=1).values


def first_distinct(keys: Tensor, population: int, count: int) -> Tensor:
    """The first ``count`` distinct values of an i.i.d. stream: O(count log count) work.

    While s values are missing, the next s of the stream are added to the set: they can never
    be too many, so the set is that of reading the stream one by one.
    """
    rows = np.empty((len(keys), count), dtype=np.int64)
    # Half the width sorts in half the time.
    width = np.int32 if population <= 1 << 31 else np.int64
    for row in range(len(keys)):
        stream = _Stream(keys[row : row + 1], population, count)
        found = _distinct(stream.take(count).numpy().astype(width))
        while missing := count - len(found):
            found = _united(found, _distinct(stream.take(missing).numpy().astype(width)))
        rows[row] = found
    return torch.from_numpy(rows)


def _distinct(values: _Integers) -> _Integers:
    """Sorted distinct values; on random integers twice as fast as numpy's hash-based unique."""
    values.sort()
    is_first = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    distinct: _Integers = values[is_first]
    return distinct


def _united(found: _Integers, newcomers: _Integers) -> _Integers:
    """The union of two sorted sets, of which the second is the smaller."""
    at = np.searchsorted(found, newcomers)
    is_new = found[np.minimum(at, len(found) - 1)] != newcomers
    return np.insert(found, at[is_new], newcomers[is_new])


def first_distinct_on_device(keys: Tensor, population: int, count: int) -> Tensor:
    """`first_distinct` in torch."""
    rows = torch.empty((len(keys), count), dtype=torch.int64, device=keys.device)
    for row in range(len(keys)):
        stream = _Stream(keys[row : row + 1], population, count)
        found = rows[row, :0]
        while missing := count - len(found):
            found = torch.unique(torch.cat([found, stream.take(missing)]))
        rows[row] = found
    return rows


class _Stream:
    """An i.i.d. stream of one key, read in pieces.

    A birthday estimate says how much will be read; should it not suffice, the hash is extended.
    """

    def __init__(self, key: Tensor, population: int, count: int) -> None:
        self._key = key
        self._population = population
        self._position = 0
        self._drawn = self._draw(count + 2 * (count * count // population) + 64)

    def _draw(self, length: int) -> Tensor:
        return integers_below(self._key, length, self._population)[0]

    def take(self, count: int) -> Tensor:
        """The next ``count`` values."""
        start, self._position = self._position, self._position + count
        if self._position > len(self._drawn):
            self._drawn = self._draw(2 * self._position)
        return self._drawn[start : self._position]
