"""torch's map-style data sets as a data set in memory."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import one_line

__all__ = ["dataset_from_torch"]


def dataset_from_torch(source: TorchDataset[Any], *, name: str = "data set") -> Dataset:
    """A data set from the items of a map-style one, each asked for once.

    What its transforms draw at random is therefore drawn once. Where examples must be made anew
    each time, or do not fit into memory, deal rows by their labels alone and give clients
    ``TorchObjective(data=torch.utils.data.Subset(source, rows.tolist()), ...)``.

    Parameters
    ----------
    source : torch.utils.data.Dataset
        Has a length N; items are pairs (features, target) of tensors, arrays or numbers.
    name : str
        What errors and results call the data.

    Returns
    -------
    Dataset
        Features (N, ...), floats as they are or int64; labels as the targets are.

    Raises
    ------
    DataError
        If it is a stream, is empty, or its items are not pairs of one shape.

    Examples
    --------
    >>> rows = TensorDataset(torch.zeros(5, 3), torch.arange(5))
    >>> dataset_from_torch(rows).features.shape
    torch.Size([5, 3])
    """
    if isinstance(source, IterableDataset):
        raise DataError(
            f"{name} is an IterableDataset, a stream: rows that are dealt to clients must be "
            "known by their number; read it into a map-style data set first"
        )
    if not isinstance(source, Sized):
        raise DataError(f"{name}: a map-style data set is needed, one with a length")
    if not len(source):
        raise DataError(f"{name} has no rows")
    features, labels = _pair(source, name)
    if not (features.is_floating_point() or features.dtype == torch.int64):
        raise DataError(
            f"{name}: features of dtype {features.dtype}; floats are needed, or int64 for indices "
            "(a transform such as ToTensor makes floats of pixels)"
        )
    if features.ndim < 2:
        raise DataError(f"{name}: an item's features are one number, not a vector or an image")
    return Dataset(features=features, labels=labels, name=name)


def _pair(source: Any, name: str) -> tuple[Tensor, Tensor]:
    if isinstance(source, TensorDataset):
        parts = [tensor.detach().clone() for tensor in source.tensors]
    else:
        try:
            parts = default_collate([source[row] for row in range(len(source))])
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"{name}: items do not stack into tensors ({one_line(error)}); let a transform "
                "bring them to one shape"
            ) from error
    if not (
        isinstance(parts, (list, tuple))
        and len(parts) == 2
        and all(isinstance(part, Tensor) for part in parts)
    ):
        raise DataError(f"{name}: items must be pairs (features, target)")
    return parts[0], parts[1]
