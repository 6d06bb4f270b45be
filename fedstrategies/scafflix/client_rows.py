"""Numbers and models that each client has one of, for some clients at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedstrategies.objectives import BatchedObjective, PersonalObjectives

__all__ = ["deployed_models", "rows_of", "selected_of"]


def deployed_models(
    objective: BatchedObjective, points: Tensor, alpha: Tensor, clients: Tensor | None
) -> Tensor:
    """x~_i; the points themselves where no client is personal."""
    if bool((alpha == 1).all()):
        return points
    if not isinstance(objective, PersonalObjectives):
        raise ValueError("alpha below 1 needs the clients' x_i*: stack PersonalObjective")
    return objective.deployed(points, alpha, clients=clients)


def selected_of(values: Sequence[float], selection: Tensor) -> tuple[float, ...]:
    """The values of the clients in some rows."""
    return tuple(values[row] for row in selection.tolist())


def rows_of(values: Tensor, clients: Tensor | None) -> Tensor:
    """The same of a tensor; all of it without a selection."""
    return values if clients is None else values[clients]
