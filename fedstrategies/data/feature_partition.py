"""Feature-skewed partitions: rows dealt by where they lie."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.data.shards import check_clients
from fedstrategies.threads import single_threaded

__all__ = ["features_partition"]

_SEEDS = 2**32


def features_partition(
    features: Tensor, clients: int, *, seed: int = 0, name: str = "the data set"
) -> list[Tensor]:
    """Each client holds one of n clusters of the rows (k-means, k = n).

    scikit-learn's k-means++ start and Lloyd's iterations, in one thread, so that the sums and
    with them the clusters do not depend on the machine.

    Parameters
    ----------
    features : Tensor
        Shape (N, ...), floating point; rows are flattened.
    clients : int
        n.
    seed : int
        Of k-means++, modulo 2**32.
    name : str
        What errors call the data.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor per client; clients by their first row.

    Raises
    ------
    DataError
        If n is not between 1 and N or more than the different rows, the features are not
        measurements, or scikit-learn is not installed.
    """
    check_clients(len(features), clients)
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
    means = KMeans(n_clusters=clients, n_init=1, random_state=seed % _SEEDS, copy_x=True)
    # Fewer clusters than asked for are announced by a warning; they are refused below.
    with single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clusters = torch.from_numpy(means.fit_predict(points))
    shards = [torch.nonzero(clusters == cluster).flatten() for cluster in range(clients)]
    filled = [rows for rows in shards if len(rows)]
    if len(filled) < clients:
        raise DataError(
            f"{name}: k-means finds {len(filled)} different clusters for {clients} clients; "
            "use fewer clients"
        )
    return sorted(filled, key=lambda rows: int(rows[0]))
