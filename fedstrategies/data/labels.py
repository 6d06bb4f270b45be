"""Labels as the objectives want them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError

__all__ = ["binary_labels"]

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
        shown = ", ".join(f"{value:g}" for value in classes[:_SHOWN].tolist())
        more = ", ..." if len(classes) > _SHOWN else ""
        raise DataError(
            f"{name} has {len(classes)} label value(s) ({shown}{more}); "
            "binary logistic regression needs exactly two"
        )
    return torch.where(labels == classes[0], -1.0, 1.0).to(torch.float64)
