"""Labels as the objectives want them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError

__all__ = ["binary_labels", "class_indices", "class_values"]

_SHOWN = 5


def binary_labels(labels: Tensor, *, name: str = "the data set") -> Tensor:
    """Map labels of any two values to -1 and +1, the smaller to -1.

    Parameters
    ----------
    labels : Tensor
        Shape (N,), numbers.
    name : str
        What the error calls the data.

    Returns
    -------
    Tensor
        float64, shape (N,).

    Raises
    ------
    DataError
        If the labels do not take exactly two values.
    """
    classes = torch.unique(labels)
    if len(classes) != 2:
        raise DataError(
            f"{name} has {len(classes)} label value(s) ({_shown(classes)}); "
            "binary logistic regression needs exactly two"
        )
    return torch.where(labels == classes[0], -1.0, 1.0).to(torch.float64)


def class_values(labels: Tensor, *, name: str = "the data set") -> Tensor:
    """The values that label the classes, ascending: class k is the k-th of them, from 0.

    Parameters
    ----------
    labels : Tensor
        Shape (N,), numbers; more than two values must be whole ones.
    name : str
        What the error calls the data.

    Returns
    -------
    Tensor
        Shape (K,), K >= 2, of the labels' dtype.

    Raises
    ------
    DataError
        If there are fewer than two values, or they look like measurements.
    """
    values: Tensor = torch.unique(labels)
    if len(values) < 2:
        raise DataError(f"{name} has one label value ({_shown(values)}); a classifier needs two")
    if len(values) > 2 and not bool((values == values.round()).all()):
        raise DataError(
            f"{name} has {len(values)} label values ({_shown(values)}), not whole numbers: "
            "a regression target, not classes"
        )
    return values


def class_indices(labels: Tensor, values: Tensor, *, name: str = "the data set") -> Tensor:
    """Labels as classes 0..K-1.

    Parameters
    ----------
    labels : Tensor
        Shape (N,).
    values : Tensor
        Shape (K,), as from `class_values`.
    name : str
        What the error calls the data.

    Returns
    -------
    Tensor
        int64, shape (N,).

    Raises
    ------
    DataError
        If a label is none of ``values``.
    """
    indices: Tensor = torch.searchsorted(values, labels)
    indices.clamp_(max=len(values) - 1)
    unknown = torch.unique(labels[values[indices] != labels])
    if len(unknown):
        raise DataError(f"{name} has labels that no training row has ({_shown(unknown)})")
    return indices


def _shown(values: Tensor) -> str:
    first = ", ".join(f"{value:g}" for value in values[:_SHOWN].tolist())
    return first + (", ..." if len(values) > _SHOWN else "")
