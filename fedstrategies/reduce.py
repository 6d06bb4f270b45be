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
import torch
from torch import Tensor

__all__ = ["BLOCK", "sum_over_clients", "sum_sparse_over_clients"]

BLOCK = 32


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
    blocks = _block_count(partition_ids)
    sums = torch.zeros((blocks, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    if _is_everyone(partition_ids):
        for slot in range(min(BLOCK, len(rows))):
            members = rows[slot::BLOCK]
            sums[: len(members)] += members
        return _add_in_order(sums)
    block_of, slot_of = partition_ids // BLOCK, partition_ids % BLOCK
    for slot in range(BLOCK):
        here = slot_of == slot
        members = block_of[here]
        if len(members):
            sums[members] += rows[here]
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
    return _add_in_order(torch.from_numpy(sums).view(blocks, dimension))


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


def _is_everyone(partition_ids: Tensor) -> bool:
    """Strictly ascending ids from 0 on without a gap end at their own count."""
    return len(partition_ids) > 0 and int(partition_ids[-1]) == len(partition_ids) - 1


def _block_count(partition_ids: Tensor) -> int:
    return int(partition_ids[-1]) // BLOCK + 1 if len(partition_ids) else 1


def _add_in_order(sums: Tensor) -> Tensor:
    total = sums[0]
    for block in sums[1:]:
        total = total + block
    return total
