"""Which client holds which rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.random import (
    Purpose,
    client_keys,
    derived_keys,
    random_bits,
    sample_without_replacement,
)

__all__ = ["PARTITIONS", "contiguous_partition", "iid_partition", "partition", "split_test"]

PARTITIONS = ("contiguous", "iid")
"""Names that `partition` knows."""

_ANNOUNCED = ("dirichlet", "classes", "features")
_TEST_SPLIT = 1


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
        int64 row indices, ascending, one tensor per client.

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

    Raises
    ------
    DataError
        As `contiguous_partition`.
    """
    key = client_keys(seed, 0, torch.zeros(1, dtype=torch.int64), Purpose.PARTITION)
    order = random_bits(key, num_examples)[0].argsort(stable=True)
    return _shards(order, clients, overlap)


def partition(
    spec: str, num_examples: int, clients: int, *, seed: int = 0, overlap: int = 1
) -> list[Tensor]:
    """The partition called ``spec``: ``contiguous`` or ``iid``.

    Raises
    ------
    DataError
        If the name is unknown, or as `contiguous_partition`.
    """
    if spec == "contiguous":
        return contiguous_partition(num_examples, clients, overlap=overlap)
    if spec == "iid":
        return iid_partition(num_examples, clients, seed=seed, overlap=overlap)
    if spec.partition(":")[0] in _ANNOUNCED:
        raise DataError(f"partition {spec!r} arrives with Scafflix; use {' or '.join(PARTITIONS)}")
    raise DataError(f"unknown partition {spec!r}; known: {', '.join(PARTITIONS)}")


def split_test(
    shards: Sequence[Tensor], *, test_fraction: float, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Set aside a random part of every shard for testing.

    Client i keeps back ``floor(test_fraction m_i)`` of its m_i rows, drawn from its own
    stream. With overlapping shards one client's test row may be another's training row.

    Parameters
    ----------
    shards : sequence of Tensor
        int64 row indices of each client, in partition order.
    test_fraction : float
        In [0, 1).
    seed : int
        The experiment's seed.

    Returns
    -------
    tuple of (list of Tensor, list of Tensor)
        Training rows and test rows of each client, each in the order of its shard.

    Raises
    ------
    DataError
        If ``test_fraction`` is out of range, or positive and too small to give any client a
        single test row.
    """
    if not 0.0 <= test_fraction < 1.0:
        raise DataError(f"test_fraction must be in [0, 1), got {test_fraction:g}")
    # 0.29 * 100 is 28.999...: the slack keeps exact products on their side of the floor.
    counts = [int(test_fraction * len(rows) + 1e-9) for rows in shards]
    if test_fraction > 0.0 and not any(counts):
        raise DataError(
            f"test_fraction {test_fraction:g} of the largest shard "
            f"({max(map(len, shards), default=0)} rows) is less than one row; "
            "use fewer clients or a larger fraction"
        )
    keys = derived_keys(
        client_keys(seed, 0, torch.arange(len(shards)), Purpose.PARTITION), _TEST_SPLIT
    )
    train, test = [], []
    for rows, count, key in zip(shards, counts, keys, strict=True):
        held_out = torch.zeros(len(rows), dtype=torch.bool)
        held_out[sample_without_replacement(key.unsqueeze(0), len(rows), count)[0]] = True
        train.append(rows[~held_out])
        test.append(rows[held_out])
    return train, test


def _shards(order: Tensor, clients: int, overlap: int) -> list[Tensor]:
    num_examples = len(order)
    if clients < 1:
        raise DataError(f"clients must be at least 1, got {clients}")
    if clients > num_examples:
        raise DataError(f"{clients} clients are more than the {num_examples} rows of the data set")
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
