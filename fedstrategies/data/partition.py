"""Which client holds which rows, by the partition's name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.feature_partition import features_partition
from fedstrategies.data.label_partition import classes_partition, dirichlet_partition
from fedstrategies.data.natural_partition import natural_partition
from fedstrategies.data.partition_spec import parse_partition
from fedstrategies.data.shards import contiguous_partition, iid_partition

__all__ = ["partition"]

_WITH_OVERLAP = ("contiguous", "iid")


def partition(
    spec: str, dataset: Dataset, clients: int, *, seed: int = 0, overlap: int = 1
) -> list[Tensor]:
    """Deal the training rows of a data set to n clients.

    Every row goes to somebody (``natural`` alone keeps the largest groups and drops the
    others), every client gets at least one, and no two clients share one unless ``overlap``
    says so.

    Parameters
    ----------
    spec : str
        ``contiguous``, ``iid``; ``dirichlet:alpha=0.5[,min_size=10]``;
        ``classes:per_client=2[,assignment=deterministic]``; ``features[:clusters=10]``;
        ``natural``. See the function of that name.
    dataset : Dataset
        Its rows, labels and groups.
    clients : int
        n.
    seed : int
        The experiment's seed; ``contiguous`` and ``natural`` do not depend on it.
    overlap : int
        xi: each client also holds the next xi - 1 shards of ``contiguous`` or ``iid``.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor of shape (m_i,) per client.

    Raises
    ------
    DataError
        If the spec is not valid, or the data set cannot be dealt so; one line saying why.
    """
    parsed = parse_partition(spec)
    options: dict[str, Any] = dict(parsed.options)
    rows, name = len(dataset), dataset.name
    if overlap != 1 and parsed.name not in _WITH_OVERLAP:
        raise DataError(
            f"overlap is for {' and '.join(_WITH_OVERLAP)} shards; partition {spec!r} has none"
        )
    match parsed.name:
        case "contiguous":
            return contiguous_partition(rows, clients, overlap=overlap)
        case "iid":
            return iid_partition(rows, clients, seed=seed, overlap=overlap)
        case "dirichlet":
            return dirichlet_partition(dataset.labels, clients, seed=seed, name=name, **options)
        case "classes":
            return classes_partition(dataset.labels, clients, seed=seed, name=name, **options)
        case "features":
            return features_partition(dataset.features, clients, seed=seed, name=name, **options)
        case _:
            return natural_partition(dataset.groups, clients, name=name)
