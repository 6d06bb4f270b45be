"""A batched objective that remembers the last point it was evaluated at."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.objectives.base import BatchedObjective
from fedstrategies.objectives.wrapped import WrappedObjectives

__all__ = ["LastPoint", "without_memory"]


class LastPoint(WrappedObjectives):
    """Give the stored result when asked again for full gradients at the same point.

    A history record evaluates f and its gradient at x^t after round t, and round t + 1 starts
    there: one evaluation serves both. A point counts as the same if its content is equal; only
    points shared by all clients are remembered, and only evaluations of all clients (a subset
    is served from them). Mini-batch gradients pass through.

    The gradients handed out are the stored ones: writing into them corrupts later results.

    Parameters
    ----------
    inner : BatchedObjective
        What is evaluated on a miss.
    """

    def __init__(self, inner: BatchedObjective) -> None:
        super().__init__(inner)
        # One tuple, replaced as a whole: a reader in another thread sees old or new, no mixture.
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (C',) and gradients (C', d); see `BatchedObjective.value_and_gradient`."""
        if x.ndim != 1 or (keys is not None and self.stochastic):
            return self.inner.value_and_gradient(x, clients=clients, keys=keys)
        known = self._recall(x)
        if known is None:
            if clients is not None:
                return self.inner.value_and_gradient(x, clients=clients)
            known = self.inner.value_and_gradient(x)
            self._last = (x.clone(), *known)
        values, gradients = known
        return (values, gradients) if clients is None else (values[clients], gradients[clients])

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """f_i(x) of the selected clients: shape (C',)."""
        known = self._recall(x) if x.ndim == 1 else None
        if known is None:
            return self.inner.values(x, clients=clients)
        return known[0] if clients is None else known[0][clients]

    def _recall(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        last = self._last
        if last is None or last[0].dtype != x.dtype or last[0].device != x.device:
            return None
        return last[1:] if torch.equal(last[0], x) else None


def without_memory(objective: BatchedObjective) -> BatchedObjective:
    """The objective inside a `LastPoint`, or ``objective`` itself."""
    while isinstance(objective, LastPoint):
        objective = objective.inner
    return objective
