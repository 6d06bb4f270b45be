"""The one rule by which sums over clients are taken.

Floating-point addition is not associative, so a sum must have one order everywhere: the
in-process engine, the message path and any number of workers. The order is: blocks of 32
partition ids, sequential inside a block, block sums in block order. Workers that own whole
blocks can then return block sums, and no result depends on how many workers there are.

Clients that are absent count as zeros, and adding 0.0 changes no bit, so a sparse upload needs
no dense copy: scattering its entries in the same order gives the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BLOCK", "sum_over_clients", "sum_sparse_over_clients"]

BLOCK = 32

_Floats = npt.NDArray[np.floating]


def sum_over_clients(rows: Tensor, partition_ids: Tensor) -> Tensor:
    """Sum of dense client vectors.

    Parameters
    ----------
    rows : Tensor
        Shape (C, d), one row per client.
    partition_ids : Tensor
        int64, shape (C,), strictly ascending.

    Returns
    -------
    Tensor
        Shape (d,), same dtype and device as ``rows``.
    """
    if rows.device.type == "cpu":
        return torch.from_numpy(_sum_blocks(rows.numpy(), partition_ids.numpy()))
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
    blocks = _block_count(partition_ids)
    if values.device.type != "cpu":
        return _sum_sparse_on_device(indices, values, dimension, partition_ids)
    sums = np.zeros(blocks * dimension, dtype=values.numpy().dtype)
    flat = (partition_ids // BLOCK * dimension).unsqueeze(1) + indices
    # ufunc.at adds one element after the other, in the order given: by client, then coordinate.
    np.add.at(sums, flat.numpy().ravel(), values.numpy().ravel())
    return torch.from_numpy(_add_blocks(sums.reshape(blocks, dimension)))


def _sum_blocks(rows: _Floats, ids: npt.NDArray[np.int64]) -> _Floats:
    """`sum_over_clients` in numpy: lay the rows out as blocks x slots and reduce the slots."""
    if len(ids) == 0:
        return np.zeros(rows.shape[1], dtype=rows.dtype)
    if rows.shape[1] == 1:
        return _sum_blocks(np.repeat(rows, 2, axis=1), ids)[:1]
    everyone = int(ids[-1]) == len(ids) - 1
    whole = len(ids) // BLOCK * BLOCK if everyone else 0
    sums = []
    if whole:
        # Along an axis that is not the fastest, numpy adds row after row (along the fastest it
        # adds in pairs, which is why a single column is doubled above).
        sums.append(np.add.reduce(rows[:whole].reshape(-1, BLOCK, rows.shape[1]), axis=1))
    if whole < len(ids):
        present, place = np.unique(ids[whole:] // BLOCK, return_inverse=True)
        slots = np.zeros((len(present), BLOCK, rows.shape[1]), dtype=rows.dtype)
        slots[place, ids[whole:] % BLOCK] = rows[whole:]
        sums.append(np.add.reduce(slots, axis=1))
    return _add_blocks(np.concatenate(sums))


def _add_blocks(sums: _Floats) -> _Floats:
    if sums.shape[1] == 1:
        return _add_blocks(np.repeat(sums, 2, axis=1))[:1]
    total: _Floats = np.add.reduce(sums, axis=0)
    return total


def _sum_sparse_on_device(
    indices: Tensor, values: Tensor, dimension: int, partition_ids: Tensor
) -> Tensor:
    """The same without atomics: within one slot no two clients share a block."""
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
