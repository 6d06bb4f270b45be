"""Feature-skewed partitions: rows dealt by where they lie."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.data.shards import check_clients, iid_partition
from fedstrategies.extras import install_hint
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
    multiple. Such neighbours are alike, which is what `contiguous_strata` make use of. A cluster
    with fewer rows than that goes to one client a row, and the other clusters to more.

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
        int64 row indices, ascending, one tensor of shape (m_i,) per client; clusters by
        their first row.

    Raises
    ------
    DataError
        If n is not between 1 and N, B not between 1 and n or more than the different rows, the
        features are not measurements, or scikit-learn is not installed.
    """
    check_clients(len(features), clients)
    count = clients if clusters is None else clusters
    if not 1 <= count <= clients:
        raise DataError(f"{count} clusters for {clients} clients; use 1 to one per client")
    if not features.is_floating_point():
        raise DataError(
            f"{name} has features that are indices ({features.dtype}), not measurements; "
            "clusters by distance say nothing about them"
        )
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise DataError(
            f"dealing rows by features needs scikit-learn; {install_hint('data')}"
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
    return [
        rows[places]
        for rows, seats in zip(filled, _seats([*map(len, filled)], clients), strict=True)
        for places in iid_partition(len(rows), seats, seed=seed)
    ]


def _seats(rows: list[int], clients: int) -> list[int]:
    """Clients of each cluster, as equal as its rows allow; B <= n <= N."""
    seats = [0] * len(rows)
    while left := clients - sum(seats):
        with_room = [cluster for cluster, held in enumerate(seats) if held < rows[cluster]]
        share = max(left // len(with_room), 1)
        for cluster in with_room[:left]:
            seats[cluster] += min(share, rows[cluster] - seats[cluster])
    return seats
