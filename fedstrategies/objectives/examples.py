"""A client's examples, fetched by row number."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

__all__ = ["ExampleSource", "Examples"]

ExampleSource = Dataset[Any] | tuple[Tensor, Tensor]
"""A map-style data set of (features, target) pairs, or both stacked along a first axis."""


class Examples:
    """One view of the two kinds of `ExampleSource`.

    Parameters
    ----------
    source : Dataset or tuple of (Tensor, Tensor)
        Tensors are indexed at once; another data set is asked item by item, each time anew, so
        that nothing is held twice.

    Raises
    ------
    ValueError
        If the source is empty, has no length, or the tensors differ in length.
    """

    def __init__(self, source: ExampleSource) -> None:
        if isinstance(source, TensorDataset):
            source = cast("tuple[Tensor, Tensor]", source.tensors)
        if isinstance(source, tuple):
            if len(source) != 2 or len(source[0]) != len(source[1]):
                lengths = [len(tensor) for tensor in source]
                raise ValueError(f"features and targets of one length are needed, got {lengths}")
            self._length = len(source[0])
        else:
            if not isinstance(source, Sized):
                raise ValueError("a map-style data set is needed, one with a length")
            self._length = len(source)
        if self._length == 0:
            raise ValueError("a client needs data, got 0 examples")
        self._source = source

    def __len__(self) -> int:
        return self._length

    @property
    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """All features and targets, where they are tensors in memory."""
        return self._source if isinstance(self._source, tuple) else None

    def take(self, rows: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Features and targets of some examples.

        Parameters
        ----------
        rows : Tensor or None
            int64 row numbers, shape (B,); None: all, tensors as they are and not copies.
        device : torch.device
            Where to put them.

        Raises
        ------
        ValueError
            If an item of the data set is not a (features, target) pair of tensors or numbers.
        """
        if isinstance(self._source, tuple):
            features, targets = self._source
            if rows is not None:
                rows = rows.to(features.device)
                features, targets = features[rows], targets[rows]
        else:
            numbers = range(self._length) if rows is None else rows.tolist()
            batch = default_collate([self._source[row] for row in numbers])
            if len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
                raise ValueError("the data set's items must be pairs (features, target)")
            features, targets = batch
        return features.to(device), targets.to(device)
