"""Rows dealt by their position: in file order, or shuffled."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.random import Purpose, client_keys, random_bits

__all__ = ["check_clients", "contiguous_partition", "iid_partition"]


def contiguous_partition(num_examples: int, clients: int, *, overlap: int = 1) -> list[Tensor]:
    """Rows in file order, N // n each, the remainder to the last shard.

    With ``overlap`` xi, client i holds the xi shards from ``min(i, n - xi)`` on: its own and
    the next xi - 1, and the last xi clients all hold the last xi shards. This is the rule of
    the EF-BV experiments, except that those drop the remainder of the last shard wherever it
    is joined to another; here every row is kept.

    Parameters
    ----------
    num_examples, clients : int
        N and n.
    overlap : int
        xi, between 1 and n.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor of shape (m_i,) per client.

    Raises
    ------
    DataError
        If n is not between 1 and N, or xi not between 1 and n.
    """
    return _shards(torch.arange(num_examples), clients, overlap)


def iid_partition(
    num_examples: int, clients: int, *, seed: int = 0, overlap: int = 1
) -> list[Tensor]:
    """Rows in a random order that depends on ``seed`` alone, then as `contiguous_partition`.

    Parameters
    ----------
    num_examples, clients : int
        N and n.
    seed : int
        The experiment's seed.
    overlap : int
        xi, between 1 and n.

    Returns
    -------
    list of Tensor
        int64 row indices, one tensor of shape (m_i,) per client.

    Raises
    ------
    DataError
        As `contiguous_partition`.
    """
    key = client_keys(seed, 0, torch.zeros(1, dtype=torch.int64), Purpose.PARTITION)
    order = random_bits(key, num_examples)[0].argsort(stable=True)
    return _shards(order, clients, overlap)


def check_clients(num_examples: int, clients: int) -> None:
    """Refuse a number of clients n that is not between 1 and N.

    Raises
    ------
    DataError
        Saying which of the two it is.
    """
    if clients < 1:
        raise DataError(f"clients must be at least 1, got {clients}")
    if clients > num_examples:
        raise DataError(f"{clients} clients are more than the {num_examples} rows of the data set")


def _shards(order: Tensor, clients: int, overlap: int) -> list[Tensor]:
    num_examples = len(order)
    check_clients(num_examples, clients)
    if not 1 <= overlap <= clients:
        raise DataError(f"overlap must be between 1 and the {clients} clients, got {overlap}")
    each = num_examples // clients
    ends = [each * (shard + 1) for shard in range(clients - 1)] + [num_examples]
    shards = []
    for client in range(clients):
        first = min(client, clients - overlap)
        rows = order[each * first : ends[first + overlap - 1]]
        shards.append(rows.sort().values)
    return shards
