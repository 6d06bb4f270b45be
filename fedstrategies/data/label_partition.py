"""Label-skewed partitions: rows dealt by their class.

The dealing is that of the ``flwr-datasets`` partitioners; this module hands them the labels
alone, in memory, and turns whatever they refuse into one line.
"""

from __future__ import annotations

import warnings
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.data.labels import class_indices, class_values
from fedstrategies.data.partition_spec import ASSIGNMENTS
from fedstrategies.data.shards import check_clients
from fedstrategies.extras import install_hint

__all__ = ["classes_partition", "dirichlet_partition"]

_MIN_SIZES = (10, 5, 2, 1)
_SEEDS = 2**32


def dirichlet_partition(
    labels: Tensor,
    clients: int,
    *,
    alpha: float,
    min_size: int | None = None,
    seed: int = 0,
    name: str = "the data set",
) -> list[Tensor]:
    """Class by class, shares of the rows drawn from Dirichlet(alpha, ..., alpha).

    The smaller alpha, the fewer clients hold most of a class; every row goes to one client.
    ``flwr-datasets`` draws anew, up to eleven times, until every client has ``min_size`` rows.

    Parameters
    ----------
    labels : Tensor
        Shape (N,), the class of each row.
    clients : int
        n.
    alpha : float
        Concentration, positive.
    min_size : int, optional
        Fewest rows of a client. By default 10, or the largest of 5, 2 and 1 that can be had
        where 10 cannot.
    seed : int
        Of numpy's generator, modulo 2**32.
    name : str
        What errors call the data.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor of shape (m_i,) per client.

    Raises
    ------
    DataError
        If n is not between 1 and N, the labels are not classes, no draw gives every client
        enough rows, or ``flwr-datasets`` is not installed.

    Notes
    -----
    Source: M. Yurochkin et al., "Bayesian nonparametric federated learning of neural networks"
    (2019).
    """
    check_clients(len(labels), clients)
    if not (isfinite(alpha) and alpha > 0.0):
        raise DataError(f"dirichlet: alpha must be a positive number, got {alpha:g}")
    if min_size is not None and min_size < 1:
        raise DataError(f"dirichlet: min_size must be at least 1, got {min_size}")
    classes = _classes(labels, name)
    tried = _MIN_SIZES if min_size is None else (min_size,)
    for size in tried:
        if size * clients > len(labels):
            continue
        shards = _deal(
            "DirichletPartitioner",
            classes,
            num_partitions=clients,
            alpha=float(alpha),
            min_partition_size=size,
            self_balancing=False,
            shuffle=False,
            seed=seed % _SEEDS,
        )
        if isinstance(shards, list):
            return shards
    raise DataError(
        f"dirichlet:alpha={alpha:g} leaves one of {clients} clients with fewer than {tried[-1]} of "
        f"{name}'s {len(labels)} rows in every draw; use fewer clients, a larger alpha"
        + (" or a smaller min_size" if tried[-1] > 1 else "")
    )


def classes_partition(
    labels: Tensor,
    clients: int,
    *,
    per_client: int,
    assignment: str = "first-deterministic",
    seed: int = 0,
    name: str = "the data set",
) -> list[Tensor]:
    """Each client holds rows of exactly ``per_client`` classes.

    The rows of a class are dealt in equal, contiguous parts to the clients that hold it.

    Parameters
    ----------
    labels : Tensor
        Shape (N,), the class of each row.
    clients : int
        n.
    per_client : int
        Classes of one client, between 1 and the number of classes K.
    assignment : str
        ``first-deterministic``: client i holds class i mod K and random other ones;
        ``deterministic``: classes i, i + 1, ... mod K; ``random``: all at random.
    seed : int
        Of numpy's generator, modulo 2**32.
    name : str
        What errors call the data.

    Returns
    -------
    list of Tensor
        int64 row indices, ascending, one tensor of shape (m_i,) per client; every row
        goes to one client.

    Raises
    ------
    DataError
        If n is not between 1 and N, the labels are not classes, ``per_client`` is out of range,
        a class would be held by nobody or has fewer rows than holders, or ``flwr-datasets`` is
        not installed.

    Notes
    -----
    Source: Q. Li et al., "Federated learning on non-IID data silos: an experimental study"
    (2022), whose assignment is ``first-deterministic``.
    """
    check_clients(len(labels), clients)
    classes = _classes(labels, name)
    if assignment not in ASSIGNMENTS:
        raise DataError(f"classes: unknown assignment {assignment!r}; {', '.join(ASSIGNMENTS)}")
    number = int(classes.max()) + 1
    if not 1 <= per_client <= number:
        raise DataError(
            f"classes:per_client={per_client}: {name} has {number} classes; "
            f"per_client must be between 1 and {number}"
        )
    shards = _deal(
        "PathologicalPartitioner",
        classes,
        num_partitions=clients,
        num_classes_per_partition=per_client,
        class_assignment_mode=assignment,
        shuffle=False,
        seed=seed % _SEEDS,
    )
    if not isinstance(shards, list):
        raise DataError(
            f"classes:per_client={per_client} gives a class of {name} to more of the {clients} "
            "clients than it has rows; use fewer clients or a smaller per_client"
        )
    held = sum(map(len, shards))
    if held < len(labels):
        absent = number - len(torch.unique(classes[torch.cat(shards)]))
        raise DataError(
            f"classes:per_client={per_client} leaves {absent} of {number} classes of {name} "
            f"({len(labels) - held} rows) to none of {clients} clients; use more clients, a "
            "larger per_client or assignment=deterministic"
        )
    return shards


def _classes(labels: Tensor, name: str) -> Tensor:
    if labels.ndim != 1:
        raise DataError(
            f"{name} has {tuple(labels.shape[1:])} labels a row, not one; "
            "dealing by class needs one class a row"
        )
    return class_indices(labels, class_values(labels, name=name), name=name)


def _deal(kind: str, classes: Tensor, **settings: Any) -> list[Tensor] | ValueError:
    """The shards, or what the partitioner says against its settings."""
    try:
        import flwr_datasets.partitioner as partitioners
        from datasets import Dataset as Table
    except ImportError as error:
        raise DataError(
            f"dealing rows by class needs flwr-datasets; {install_hint('data')}"
        ) from error
    partitioner = getattr(partitioners, kind)(partition_by="label", **settings)
    partitioner.dataset = Table.from_dict(
        {"label": classes.numpy(), "row": torch.arange(len(classes)).numpy()}
    )
    # Each failed draw is announced by a paragraph; the last one counts.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parts = [partitioner.load_partition(i) for i in range(settings["num_partitions"])]
        except ValueError as error:
            return error
    return [torch.from_numpy(part.with_format("numpy")[:]["row"]).sort().values for part in parts]
