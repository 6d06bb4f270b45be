"""Clients one after the other: the batched objective of whatever has no batched kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedstrategies.objectives.base import BatchedObjective, Objective
from fedstrategies.objectives.statistic import ExampleStatistic

__all__ = ["LoopedObjectives"]


class LoopedObjectives(BatchedObjective):
    """Evaluate each client's objective in turn.

    Every row is, bit for bit, what the objective gives alone.

    Parameters
    ----------
    objectives : sequence of Objective
        One per client, of equal dimension and dtype.

    Raises
    ------
    ValueError
        If there is none, or they differ in dimension or dtype.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        kinds = {(objective.dimension, objective.dtype) for objective in objectives}
        if len(kinds) != 1:
            found = ", ".join(f"d={d} {dtype}" for d, dtype in sorted(kinds, key=str)) or "none"
            raise ValueError(f"objectives of one dimension and dtype are needed, got {found}")
        self._objectives = tuple(objectives)

    def __len__(self) -> int:
        return len(self._objectives)

    @property
    def dimension(self) -> int:
        """d, the length of the flat vector."""
        return self._objectives[0].dimension

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x, values and gradients."""
        return self._objectives[0].dtype

    @property
    def num_examples(self) -> Tensor:
        """Number of examples of each client: int64, shape (n,)."""
        return torch.tensor([objective.num_examples for objective in self._objectives])

    @property
    def device(self) -> torch.device:
        """Where all clients' objectives compute; the CPU if they differ."""
        devices = {objective.device for objective in self._objectives}
        return devices.pop() if len(devices) == 1 else torch.device("cpu")

    @property
    def stochastic(self) -> bool:
        """Whether some client's objective draws mini-batches."""
        return any(objective.stochastic for objective in self._objectives)

    @property
    def looped(self) -> bool:
        """True."""
        return True

    @property
    def concurrent(self) -> bool:
        """Whether all clients' objectives are."""
        return all(objective.concurrent for objective in self._objectives)

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (C',) and gradients (C', d); see `BatchedObjective.value_and_gradient`."""
        selected = self._selected(x, clients)
        if len(selected) == 1:
            # Nothing to put together, hence nothing to copy.
            ((objective, point),) = selected
            value, gradient = objective.value_and_gradient(point, key=keys)
            return value.unsqueeze(0), gradient.unsqueeze(0)
        values = x.new_empty(len(selected))
        gradients = x.new_empty((len(selected), self.dimension))
        for row, (objective, point) in enumerate(selected):
            key = None if keys is None else keys[row : row + 1]
            values[row], gradients[row] = objective.value_and_gradient(point, key=key)
        return values, gradients

    def mean_statistics(
        self, x: Tensor, statistic: ExampleStatistic, *, clients: Tensor | None = None
    ) -> Tensor:
        """Means of a statistic (C', S); see `BatchedObjective.mean_statistics`."""
        selected = self._selected(x, clients)
        found = [objective.mean_statistic(point, statistic) for objective, point in selected]
        return torch.stack(found) if found else x.new_empty((0, statistic.dimension)).double()

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """f_i(x) of the selected clients: shape (C',)."""
        found = [objective.value(point) for objective, point in self._selected(x, clients)]
        return torch.stack(found) if found else x.new_empty(0)

    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """Fraction of each selected client's examples classified correctly: shape (C',)."""
        found = [objective.accuracy(point) for objective, point in self._selected(x, clients)]
        return torch.stack(found) if found else x.new_empty(0)

    def rows_for(self, x: Tensor, clients: Tensor | None) -> Sequence[int]:
        """The positions of the selected clients, after making sure that ``x`` fits.

        Raises
        ------
        ValueError
            If ``x`` has another shape.
        """
        rows = range(len(self)) if clients is None else clients.tolist()
        if x.shape not in ((self.dimension,), (len(rows), self.dimension)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected ({self.dimension},) or "
                f"({len(rows)}, {self.dimension})"
            )
        return rows

    def _selected(self, x: Tensor, clients: Tensor | None) -> list[tuple[Objective, Tensor]]:
        rows = self.rows_for(x, clients)
        points = [x] * len(rows) if x.ndim == 1 else x
        return [(self._objectives[row], point) for row, point in zip(rows, points, strict=True)]
