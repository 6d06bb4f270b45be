"""The one rule by which sums over clients are taken.

Floating-point addition is not associative, so a sum must have one order everywhere: the
in-process engine, the message path and any number of workers. The order is: blocks of 32
partition ids, sequential inside a block, block sums in block order. So no result depends on how
many workers computed the rows.

Clients that are absent count as zeros, and adding 0.0 changes no bit, so a sparse upload needs
no dense copy: scattering its entries in the same order gives the same bits.

A sum beyond the dtype is infinite, without a warning of numpy's: who uses it looks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BLOCK", "sum_over_clients", "sum_sparse_over_clients"]

BLOCK = 32

_CACHE_BYTES = 2**20
"""Block sums that are kept at a time."""

_Floats = npt.NDArray[np.floating]


def sum_over_clients(
    rows: Tensor, partition_ids: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Sum of dense client vectors.

    Parameters
    ----------
    rows : Tensor
        Shape (C, d), one row per client.
    partition_ids : Tensor
        int64, shape (C,), strictly ascending.
    weights : Tensor or None
        Shape (C,): the sum is that of ``weights[i] * rows[i]``, rounded to the dtype of ``rows``
        one by one. None: of the rows as they are.

    Returns
    -------
    Tensor
        Shape (d,), same dtype and device as ``rows``.
    """
    if weights is not None:
        weights = weights.to(rows)
    if rows.device.type == "cpu":
        factors = None if weights is None else weights.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            total = _sum_rows(rows.numpy(), partition_ids.numpy(), factors)
        return torch.from_numpy(total)
    if weights is not None:
        rows = weights.unsqueeze(1) * rows
    partition_ids = partition_ids.to(rows.device)
    blocks = _block_count(partition_ids)
    sums = torch.zeros((blocks, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    block_of, slot_of = partition_ids // BLOCK, partition_ids % BLOCK
    for slot in range(BLOCK):
        here = slot_of == slot
        sums[block_of[here]] += rows[here]
    return _add_in_order(sums)


def sum_sparse_over_clients(
    indices: Tensor, values: Tensor, dimension: int, partition_ids: Tensor
) -> Tensor:
    """Sum of sparse client vectors, equal bit for bit to the dense sum.

    Parameters
    ----------
    indices, values : Tensor
        Shape (C, k): coordinates (distinct within a row) and their values.
    dimension : int
        d, the length of the result.
    partition_ids : Tensor
        int64, shape (C,), strictly ascending.

    Returns
    -------
    Tensor
        Shape (d,).
    """
    if values.device.type != "cpu":
        return _sum_sparse_on_device(indices, values, dimension, partition_ids)
    with np.errstate(over="ignore", invalid="ignore"):
        total = _sum_entries(indices.numpy(), values.numpy(), dimension, partition_ids.numpy())
    return torch.from_numpy(total)


def _sum_rows(rows: _Floats, ids: npt.NDArray[np.int64], weights: _Floats | None) -> _Floats:
    """`sum_over_clients` in numpy, by strips of coordinates.

    What is made of a strip fits into a cache: block sums, and weighted rows.
    """
    dimension = rows.shape[1]
    if len(ids) == 0:
        return np.zeros(dimension, dtype=rows.dtype)
    starts = _block_starts(ids)
    if dimension == 1:
        return _sum_numbers(rows[:, 0] if weights is None else rows[:, 0] * weights, ids, starts)
    rows = np.ascontiguousarray(rows)
    made = len(starts) if weights is None else len(starts) + len(rows)
    strips = -(-rows.itemsize * dimension * made // _CACHE_BYTES)
    bounds = _bounds(dimension, min(strips, dimension // 2))
    total = np.empty(dimension, dtype=rows.dtype)
    for first, last in pairwise(bounds):
        strip = rows[:, first:last]
        if weights is not None:
            strip = strip * weights[:, None]
        total[first:last] = _sum_strip(strip, ids, starts)
    return total


def _sum_numbers(
    numbers: _Floats, ids: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
) -> _Floats:
    """`_sum_rows` of one column: numpy sums neighbours in pairs, but accumulates in order."""
    whole = _whole_blocks(ids)
    sums = np.empty(len(starts), dtype=numbers.dtype)
    sums[:whole] = numbers[: whole * BLOCK].reshape(whole, BLOCK).cumsum(axis=1)[:, -1]
    bounds = [*starts[whole:].tolist(), len(ids)]
    for block, (first, last) in enumerate(pairwise(bounds), start=whole):
        sums[block] = numbers[first:last].cumsum()[-1]
    total: _Floats = sums.cumsum()[-1:]
    total += 0.0
    return total


def _sum_strip(rows: _Floats, ids: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> _Floats:
    """Row after row within blocks, whose first rows are ``starts``; then block after block."""
    whole = _whole_blocks(ids)
    width = rows.shape[1]
    sums = np.empty((len(starts), width), dtype=rows.dtype)
    if whole:
        np.add.reduce(rows[: whole * BLOCK].reshape(whole, BLOCK, width), axis=1, out=sums[:whole])
    bounds = [*starts[whole:].tolist(), len(ids)]
    for block, (first, last) in enumerate(pairwise(bounds), start=whole):
        np.add.reduce(rows[first:last], axis=0, out=sums[block])
    total: _Floats = np.add.reduce(sums, axis=0)
    # Absent clients count as zeros: -0.0 cannot remain.
    total += 0.0
    return total


def _sum_entries(
    indices: npt.NDArray[np.int64], values: _Floats, dimension: int, ids: npt.NDArray[np.int64]
) -> _Floats:
    """`sum_sparse_over_clients` in numpy, as many blocks at a time as fit into a cache."""
    if len(ids) == 0:
        return np.zeros(dimension, dtype=values.dtype)
    if dimension == 1:
        # Along the fastest axis numpy adds in pairs: where there are two columns, rows are not it.
        return _sum_entries(indices, values, 2, ids)[:1]
    starts = _block_starts(ids)
    if _whole_blocks(ids):
        number = ids // BLOCK
    else:
        number = np.zeros(len(ids), dtype=np.int64)
        number[starts[1:]] = 1
        number.cumsum(out=number)
    together = min(len(starts), max(1, _CACHE_BYTES // (dimension * values.itemsize)))
    total = np.zeros(dimension, dtype=values.dtype)
    # The total so far is the first row, and the sums of some blocks stand below it.
    sums = np.empty((1 + together, dimension), dtype=values.dtype)
    for first in range(0, len(starts), together):
        last = first + together
        here = slice(starts[first], starts[last] if last < len(starts) else len(ids))
        sums[0], sums[1:] = total, 0.0
        flat = dimension * (number[here] + (1 - first))[:, None] + indices[here]
        # ufunc.at adds one element after the other, in the order given: by client, then coordinate.
        np.add.at(sums.reshape(-1), flat.ravel(), values[here].ravel())
        total = np.add.reduce(sums, axis=0)
    return total


def _block_starts(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The position of each present block's first client."""
    if _whole_blocks(ids):
        return np.arange(0, len(ids), BLOCK)
    blocks = ids // BLOCK
    first = np.ones(len(ids), dtype=np.bool_)
    np.not_equal(blocks[1:], blocks[:-1], out=first[1:])
    return np.flatnonzero(first)


def _whole_blocks(ids: npt.NDArray[np.int64]) -> int:
    """How many blocks lie side by side and full, if the ids are 0, 1, 2, ...; else 0."""
    return len(ids) // BLOCK if int(ids[-1]) == len(ids) - 1 else 0


def _bounds(length: int, parts: int) -> list[int]:
    return [length * part // parts for part in range(parts + 1)]


def _sum_sparse_on_device(
    indices: Tensor, values: Tensor, dimension: int, partition_ids: Tensor
) -> Tensor:
    """The same without atomics: within one slot no two clients share a block."""
    partition_ids = partition_ids.to(values.device)
    blocks = _block_count(partition_ids)
    sums = torch.zeros(blocks * dimension, dtype=values.dtype, device=values.device)
    flat = (partition_ids // BLOCK * dimension).unsqueeze(1) + indices
    slot_of = partition_ids % BLOCK
    for slot in range(BLOCK):
        here = slot_of == slot
        target = flat[here].reshape(-1)
        sums[target] += values[here].reshape(-1)
    return _add_in_order(sums.view(blocks, dimension))


def _block_count(partition_ids: Tensor) -> int:
    return int(partition_ids[-1]) // BLOCK + 1 if len(partition_ids) else 1


def _add_in_order(sums: Tensor) -> Tensor:
    total = sums[0]
    for block in sums[1:]:
        total = total + block
    return total
