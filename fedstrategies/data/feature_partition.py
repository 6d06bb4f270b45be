"""Feature-skewed partitions: rows dealt by where they lie."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.data.shards import check_clients, iid_partition
from fedstrategies.threads import single_threaded

__all__ = ["features_partition"]

_SEEDS = 2**32


def features_partition(
    features: Tensor,
    clients: int,
    *,
    clusters: int | None = None,
    seed: int = 0,
    name: str = "the data set",
) -> list[Tensor]:
    """Each client holds a cluster of the rows, or part of one (k-means).

    With fewer clusters than clients, neighbouring clients share a cluster, whose rows are dealt
    to them at random: as many clients for each cluster, the first ones one more if n is no
    multiple. Such neighbours are alike, which is what `contiguous_strata` make use of.

    scikit-learn's k-means++ start and Lloyd's iterations, in one thread, so that the sums and
    with them the clusters do not depend on the machine.

    Parameters
    ----------
    features : Tensor
        Shape (N, ...), floating point; rows are flattened.
    clients : int
        n.
    clusters : int or None
        B, between 1 and n; None: n.
    seed : int
        Of k-means++, modulo 2**32, and of the dealing inside clusters.
    name : str
        What errors call the data.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor per client; clusters by their first row.

    Raises
    ------
    DataError
        If n is not between 1 and N, B not between 1 and n or more than the different rows, a
        cluster has fewer rows than clients, the features are not measurements, or scikit-learn
        is not installed.
    """
    check_clients(len(features), clients)
    count = clients if clusters is None else clusters
    if count > clients:
        raise DataError(f"{count} clusters for {clients} clients; use at most one per client")
    if not features.is_floating_point():
        raise DataError(
            f"{name} has features that are indices ({features.dtype}), not measurements; "
            "clusters by distance say nothing about them"
        )
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise DataError(
            "dealing rows by features needs scikit-learn; pip install 'fedstrategies[data]'"
        ) from error
    points = features.flatten(start_dim=1).numpy()
    means = KMeans(n_clusters=count, n_init=1, random_state=seed % _SEEDS, copy_x=True)
    # Fewer clusters than asked for are announced by a warning; they are refused below.
    with single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.from_numpy(means.fit_predict(points))
    groups = [torch.nonzero(found == cluster).flatten() for cluster in range(count)]
    filled = sorted((rows for rows in groups if len(rows)), key=lambda rows: int(rows[0]))
    if len(filled) < count:
        raise DataError(
            f"{name}: k-means finds {len(filled)} different clusters for {count} "
            f"{'clients' if clusters is None else 'clusters'}; use fewer"
        )
    return _dealt(filled, clients, seed, name)


def _dealt(groups: list[Tensor], clients: int, seed: int, name: str) -> list[Tensor]:
    """The rows of each cluster among its clients."""
    shards: list[Tensor] = []
    for cluster, rows in enumerate(groups):
        seats = clients // len(groups) + (cluster < clients % len(groups))
        if len(rows) < seats:
            raise DataError(
                f"{name}: cluster {cluster} has {len(rows)} rows for {seats} clients; use fewer "
                "clients, or other clusters"
            )
        if seats == 1:
            shards.append(rows)
            continue
        dealt = iid_partition(len(rows), seats, seed=seed)
        shards += [rows[places] for places in dealt]
    return shards
