"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedstrategies.data.errors import DataError

__all__ = ["Dataset"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples and their labels, in file order.

    Attributes
    ----------
    features : Tensor
        Shape (N, ...), one row per example: floating-point measurements, (N, d) for the
        tabular and image sets, or the int64 indices of characters, (N, S) for text.
    labels : Tensor
        As the source states them: shape (N,) (`binary_labels` maps two classes to -1/+1,
        `class_indices` more of them to 0..K-1), or (N, S) where every position of a sequence
        has a label of its own.
    name : str
        Short name, fit for a directory or a title.
    test : tuple of (Tensor, Tensor), optional
        Features and labels of the set's own test split.
    groups : Tensor, optional
        int64, shape (N,): the natural client of each row, from 0 to G-1.
    group_names : tuple of str
        Length G; empty where there are no groups.
    image : tuple of (int, int, int), optional
        Channels, height and width of the image that a row of ``features`` is, flattened.
    class_names : tuple of str
        Length K: what the classes 0..K-1 are called, where labels are these; else empty.

    Raises
    ------
    DataError
        If labels or groups are not one a row, or a group or a class has no name.
    """

    features: Tensor
    labels: Tensor
    name: str
    test: tuple[Tensor, Tensor] | None = None
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    image: tuple[int, int, int] | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.features):
            raise DataError(f"{self.name}: {len(self.labels)} labels for {len(self)} rows")
        if self.class_names and len(self):
            low, high = self.labels.min(), self.labels.max()
            if not 0 <= low <= high < len(self.class_names):
                raise DataError(f"{self.name}: a label is none of {len(self.class_names)} classes")
        if self.groups is None:
            return
        if self.groups.shape != (len(self),):
            raise DataError(
                f"{self.name}: groups of shape {tuple(self.groups.shape)} for {len(self)} rows"
            )
        if len(self) and not 0 <= self.groups.min() <= self.groups.max() < len(self.group_names):
            raise DataError(f"{self.name}: a group is none of the {len(self.group_names)} named")

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and labels of some rows, e.g. of one client's; copies.

        Parameters
        ----------
        rows : Tensor
            int64, shape (m,): row indices, as from `partition`.

        Returns
        -------
        tuple of (Tensor, Tensor)
            Of length m, as `TorchObjective` takes them for its ``data``.
        """
        return self.features[rows], self.labels[rows]

    @property
    def dimension(self) -> int:
        """d, the number of features of a row.

        Raises
        ------
        DataError
            If a row is not a vector.
        """
        if self.features.ndim != 2:
            raise DataError(
                f"{self.name}: rows of shape {tuple(self.features.shape[1:])}, not (d,)"
            )
        return self.features.shape[1]
