"""Rows set aside for testing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.random import Purpose, client_keys, derived_keys, sample_without_replacement

__all__ = ["split_test"]

_TEST_SPLIT = 1


def split_test(
    shards: Sequence[Tensor], *, test_fraction: float, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Set aside a random part of every shard for testing.

    Client i keeps back ``floor(test_fraction m_i)`` of its m_i rows, drawn from its own
    stream. With overlapping shards one client's test row may be another's training row.

    Parameters
    ----------
    shards : sequence of Tensor
        Row indices of each client, in partition order: int64, shape (m_i,).
    test_fraction : float
        In [0, 1).
    seed : int
        The experiment's seed.

    Returns
    -------
    tuple of (list of Tensor, list of Tensor)
        Training rows and test rows of each client, each in the order of its shard: shapes
        (m_i - t_i,) and (t_i,), with t_i rows kept back.

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
