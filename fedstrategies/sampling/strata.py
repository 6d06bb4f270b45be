"""Grouping clients that resemble each other, for strata and blocks.

What clients resemble each other in is a signature, one row a client: the histogram of its labels,
the mean of its features, or its gradient at x^0. Whoever computes the groups sees the signatures;
a gradient can give away examples it was taken on, so clustering by gradients must be a choice.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fedstrategies.extras import install_hint
from fedstrategies.threads import single_threaded

__all__ = [
    "balanced_strata",
    "contiguous_strata",
    "feature_means",
    "kmeans_strata",
    "label_histograms",
]

Groups = tuple[tuple[int, ...], ...]
_SEEDS = 2**32


def label_histograms(labels: Sequence[Tensor], classes: int) -> Tensor:
    """Share of each label among a client's examples.

    Parameters
    ----------
    labels : sequence of Tensor
        Each client's labels 0, ..., K-1: int64, shape (m_i,), m_i >= 1.
    classes : int
        K.

    Returns
    -------
    Tensor
        float64, shape (n, K).

    Raises
    ------
    ValueError
        If a client has no examples, or a label outside 0, ..., K-1.
    """
    for client, one in enumerate(labels):
        _check_examples(client, one)
        if not 0 <= int(one.min()) <= int(one.max()) < classes:
            raise ValueError(
                f"client {client} has labels from {int(one.min())} to {int(one.max())}; with "
                f"{classes} classes they must be 0, ..., {classes - 1}"
            )
    counts = [torch.bincount(one, minlength=classes).to(torch.float64) for one in labels]
    return torch.stack([count / count.sum() for count in counts])


def feature_means(features: Sequence[Tensor]) -> Tensor:
    """Mean of each client's rows, flattened.

    Parameters
    ----------
    features : sequence of Tensor
        Each client's rows: shape (m_i, ...), m_i >= 1.

    Returns
    -------
    Tensor
        float64, shape (n, p).

    Raises
    ------
    ValueError
        If a client has no rows.
    """
    for client, rows in enumerate(features):
        _check_examples(client, rows)
    return torch.stack(
        [rows.flatten(start_dim=1).to(torch.float64).mean(dim=0) for rows in features]
    )


def contiguous_strata(clients: int, strata: int) -> Groups:
    """Neighbours in the order of partition ids, sizes equal up to one, the larger ones first.

    With the partition ``features:clusters=B`` and B strata these are its clusters, unless one has
    fewer rows than clients.

    Parameters
    ----------
    clients : int
        n.
    strata : int
        b, from 1 to n.

    Raises
    ------
    ValueError
        If there are not between 1 and n strata.
    """
    _check_count(clients, strata)
    size, larger = divmod(clients, strata)
    bounds = [j * size + min(j, larger) for j in range(strata + 1)]
    return tuple(tuple(range(a, b)) for a, b in itertools.pairwise(bounds))


def kmeans_strata(signatures: Tensor, strata: int, *, seed: int = 0) -> Groups:
    """Clusters of signatures by k-means (scikit-learn), of any sizes.

    Parameters
    ----------
    signatures : Tensor
        Shape (n, s).
    strata : int
        b, the number of groups.
    seed : int
        Of the starts; the best of ten is taken.

    Returns
    -------
    tuple of tuple of int
        b groups, by their first client.

    Raises
    ------
    ValueError
        If there are fewer different signatures than strata, a signature is not finite, or
        scikit-learn is not installed.
    """
    labels, _ = _kmeans(signatures, strata, seed)
    return _ordered(labels, strata)


def balanced_strata(signatures: Tensor, strata: int, *, seed: int = 0) -> Groups:
    """Groups of equal size (up to one) around the centres of k-means.

    Clients go to the b centres, each with room for n/b clients, so that the sum of squared
    distances is smallest (an assignment problem, solved exactly). It holds n^2 distances and
    takes a second for n = 4,000, 128 MB; for many more clients take `kmeans_strata`.

    Parameters, results and errors are those of `kmeans_strata`.
    """
    labels, centres = _kmeans(signatures, strata, seed)
    clients = len(labels)
    from scipy.optimize import linear_sum_assignment

    room = [len(group) for group in contiguous_strata(clients, strata)]
    # The largest clusters get the larger rooms.
    by_size = torch.bincount(labels, minlength=strata).argsort(descending=True, stable=True)
    seats = torch.cat(
        [
            torch.full((size,), int(centre))
            for centre, size in zip(by_size, sorted(room, reverse=True), strict=True)
        ]
    )
    distances = torch.cdist(_finite(signatures), centres).square()
    clients_seated, taken = linear_sum_assignment(distances[:, seats].numpy())
    assigned = torch.empty(clients, dtype=torch.int64)
    assigned[torch.from_numpy(clients_seated)] = seats[torch.from_numpy(taken)]
    return _ordered(assigned, strata)


def _kmeans(signatures: Tensor, strata: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster of each client (n,) and the centres (b, s)."""
    _check_count(len(signatures), strata)
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ValueError(
            f"grouping clients by k-means needs scikit-learn; {install_hint('data')}"
        ) from error
    points = _finite(signatures).numpy()
    means = KMeans(n_clusters=strata, n_init=10, random_state=seed % _SEEDS)
    # Fewer clusters than asked for are announced by a warning; they are refused below.
    with single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = torch.from_numpy(means.fit_predict(points)).to(torch.int64)
    found = int((torch.bincount(labels, minlength=strata) > 0).sum())
    if found < strata:
        raise ValueError(
            f"the clients have {found} different signatures, too few for {strata} strata"
        )
    return labels, torch.from_numpy(means.cluster_centers_)


def _finite(signatures: Tensor) -> Tensor:
    if signatures.ndim != 2:
        raise ValueError(f"signatures have shape {tuple(signatures.shape)}; it must be (n, s)")
    points = signatures.detach().cpu().to(torch.float64)
    wrong = torch.nonzero(~torch.isfinite(points).all(dim=1)).flatten()
    if len(wrong):
        raise ValueError(f"the signature of client {int(wrong[0])} is not finite")
    return points


def _ordered(labels: Tensor, strata: int) -> Groups:
    groups = [tuple(torch.nonzero(labels == j).flatten().tolist()) for j in range(strata)]
    return tuple(sorted(groups))


def _check_examples(client: int, rows: Tensor) -> None:
    if not len(rows):
        raise ValueError(f"client {client} has no examples, hence no signature")


def _check_count(clients: int, strata: int) -> None:
    if not 1 <= strata <= clients:
        raise ValueError(f"{strata} strata of {clients} clients: between 1 and n are possible")
