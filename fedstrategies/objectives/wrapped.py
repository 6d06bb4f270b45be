"""Batched objectives around others."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.objectives.base import BatchedObjective
from fedstrategies.objectives.statistic import ExampleStatistic

__all__ = ["WrappedObjectives"]


class WrappedObjectives(BatchedObjective):
    """Objectives around others: the same clients, dimension and examples.

    Parameters
    ----------
    inner : BatchedObjective
        What is wrapped.
    """

    def __init__(self, inner: BatchedObjective) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def dimension(self) -> int:
        """d, the length of the flat vector."""
        return self.inner.dimension

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x, values and gradients."""
        return self.inner.dtype

    @property
    def num_examples(self) -> Tensor:
        """Number of examples of each client: int64, shape (n,)."""
        return self.inner.num_examples

    @property
    def device(self) -> torch.device:
        """Where the wrapped objectives compute."""
        return self.inner.device

    @property
    def stochastic(self) -> bool:
        """Whether keys make `value_and_gradient` use mini-batches."""
        return self.inner.stochastic

    @property
    def looped(self) -> bool:
        """Whether the wrapped clients are evaluated one after the other."""
        return self.inner.looped

    @property
    def concurrent(self) -> bool:
        """Whether the wrapped objectives are."""
        return self.inner.concurrent

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (C',) and gradients (C', d); see `BatchedObjective.value_and_gradient`."""
        return self.inner.value_and_gradient(x, clients=clients, keys=keys)

    def mean_statistics(
        self, x: Tensor, statistic: ExampleStatistic, *, clients: Tensor | None = None
    ) -> Tensor:
        """Means of a statistic (C', S); see `BatchedObjective.mean_statistics`."""
        return self.inner.mean_statistics(x, statistic, clients=clients)

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """f_i(x) of the selected clients: shape (C',)."""
        return self.inner.values(x, clients=clients)

    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """Fraction of each selected client's examples classified correctly: shape (C',)."""
        return self.inner.accuracy(x, clients=clients)
