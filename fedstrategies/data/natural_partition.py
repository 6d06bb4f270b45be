"""Rows dealt by whom they come from."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.data.shards import check_clients

__all__ = ["natural_partition"]


def natural_partition(
    groups: Tensor | None, clients: int, *, name: str = "the data set"
) -> list[Tensor]:
    """Each client is one natural group, such as a writer or a speaking role.

    The n groups with the most rows, the largest first and equal ones by index: client i is the
    same group whatever n. Rows of other groups go to nobody.

    Parameters
    ----------
    groups : Tensor or None
        int64, shape (N,), the group of each row (`Dataset.groups`).
    clients : int
        n.
    name : str
        What errors call the data.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor of shape (m_i,) per client.

    Raises
    ------
    DataError
        If the rows have no groups, or n is not between 1 and their number.
    """
    if groups is None:
        raise DataError(f"{name} has no natural clients; use another partition")
    check_clients(len(groups), clients)
    counts = torch.bincount(groups)
    filled = int((counts > 0).sum())
    if clients > filled:
        raise DataError(f"{clients} clients are more than the {filled} natural clients of {name}")
    largest = counts.argsort(descending=True, stable=True)[:clients]
    by_group = groups.argsort(stable=True)
    ends = counts.cumsum(0)
    return [by_group[ends[group] - counts[group] : ends[group]] for group in largest.tolist()]
