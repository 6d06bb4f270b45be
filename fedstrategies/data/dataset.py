"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Dataset"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples and their labels, in file order.

    Attributes
    ----------
    features : Tensor
        float64, shape (N, d).
    labels : Tensor
        Shape (N,), as the source states them (`binary_labels` maps two classes to -1/+1).
    name : str
        Short name, fit for a directory or a title.
    test : tuple of (Tensor, Tensor), optional
        Features and labels of the set's own test split.
    """

    features: Tensor
    labels: Tensor
    name: str
    test: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dimension(self) -> int:
        """d, the number of features."""
        return self.features.shape[1]
