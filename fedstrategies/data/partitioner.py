"""Rows dealt by any partitioner of ``flwr-datasets``."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import one_line
from fedstrategies.extras import install_hint

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

__all__ = ["flwr_partition"]

_ROW = "__row__"


def flwr_partition(
    partitioner: Partitioner, data: Dataset | datasets.Dataset, *, allow_unused: bool = False
) -> list[Tensor]:
    """Who holds which rows, as a partitioner of ``flwr-datasets`` deals them.

    The partitioner is not changed: the same one gives the same rows again.

    Parameters
    ----------
    partitioner : flwr_datasets.partitioner.Partitioner
        E.g. ``DirichletPartitioner``, ``PathologicalPartitioner``, ``NaturalIdPartitioner``,
        ``IidPartitioner``; one that has no data yet.
    data : Dataset or datasets.Dataset
        The rows. Of a `Dataset` it sees the columns ``label``, where there is one a row, and
        ``group``, where rows have natural clients; ``partition_by`` names one of them.
    allow_unused : bool
        Whether rows may go to nobody.

    Returns
    -------
    list of Tensor
        int64 row indices of shape (m_i,), ascending, one tensor a client; no row is in two of
        them.

    Raises
    ------
    DataError
        If ``flwr-datasets`` is not installed or refuses, a client gets no row, a row goes to two
        clients, or one to nobody.

    Examples
    --------
    >>> from flwr_datasets.partitioner import IidPartitioner
    >>> rows = Dataset(features=torch.zeros(4, 1), labels=torch.arange(4), name="rows")
    >>> [len(part) for part in flwr_partition(IidPartitioner(num_partitions=2), rows)]
    [2, 2]
    """
    kind = type(partitioner).__name__
    if partitioner.is_dataset_assigned():
        raise DataError(f"{kind} has its data already; give one that has none")
    own = copy.deepcopy(partitioner)
    table = _table(data) if isinstance(data, Dataset) else data
    if not hasattr(table, "add_column"):
        raise DataError(f"{kind}: rows of a {type(table).__name__} cannot be dealt; give one split")
    if _ROW in table.column_names:
        raise DataError(f"{kind}: no column of the data may be called {_ROW!r}")
    own.dataset = table.add_column(_ROW, list(range(len(table))))
    parts = _parts(own, kind)
    held = torch.cat(parts)
    if len(torch.unique(held)) < len(held):
        raise DataError(f"{kind} gives {len(held) - len(torch.unique(held))} rows to two clients")
    if empty := [client for client, part in enumerate(parts) if not len(part)]:
        raise DataError(f"{kind} gives no row to {len(empty)} clients, e.g. client {empty[0]}")
    if len(held) < len(table) and not allow_unused:
        raise DataError(
            f"{kind} gives {len(table) - len(held)} of {len(table)} rows to nobody; change its "
            "settings, or say allow_unused=True"
        )
    return parts


def _parts(partitioner: Any, kind: str) -> list[Tensor]:
    # What warnings tell (classes that nobody gets, further draws) is looked at afterwards.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parts = [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{kind}: {one_line(error)}") from error
    if any(_ROW not in part.column_names for part in parts):
        raise DataError(f"{kind} deals columns, not rows; clients here hold rows")
    return [
        torch.from_numpy(part.select_columns(_ROW).with_format("numpy")[:][_ROW].astype("int64"))
        .sort()
        .values
        for part in parts
    ]


def _table(data: Dataset) -> Any:
    try:
        from datasets import Dataset as Table
    except ImportError as error:
        raise DataError(
            f"dealing rows by a partitioner needs datasets; {install_hint('data')}"
        ) from error
    columns = {"label": data.labels.numpy()} if data.labels.ndim == 1 else {}
    if data.groups is not None:
        columns["group"] = data.groups.numpy()
    if not columns:
        columns["position"] = torch.arange(len(data)).numpy()
    return Table.from_dict(columns)
