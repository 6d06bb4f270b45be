"""The minimiser of the FLIX objective, for gaps and f*."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression
from fedstrategies.objectives.last_point import without_memory
from fedstrategies.objectives.logistic_hessian import mean_logistic_hessian
from fedstrategies.objectives.personal import FLIXObjectives
from fedstrategies.objectives.prox import NoProx
from fedstrategies.objectives.smoothness import logistic_smoothness
from fedstrategies.objectives.solve import CompositeProblem, Solution, accelerated, newton

__all__ = ["minimise_flix"]


def minimise_flix(
    objective: FLIXObjectives, *, smoothness: float | None = None, tolerance: float = 1e-11
) -> Solution:
    """Minimise ``(1/n) sum_i f_i(alpha_i x + (1 - alpha_i) x_i*)`` for convex f_i.

    For logistic regression: Newton's method, the Hessian being ``(1/n) sum_i alpha_i^2 H_i`` at
    the deployed models. Otherwise: accelerated gradient descent, see `minimise`.

    Parameters
    ----------
    objective : FLIXObjectives
        The F_i, evaluated in full.
    smoothness : float, optional
        ``(1/n) sum_i alpha_i^2 L_i``; None: computed, which only logistic regression allows.
    tolerance : float
        Largest norm of the gradient. It scales with alpha^2, and so does the gap that is left.

    Raises
    ------
    SolveError
        As `minimise`.
    ValueError
        If L_i are needed and unknown.
    """
    inner = without_memory(objective.personal.inner)
    weights = objective.alpha.square()
    start = torch.zeros(objective.dimension, dtype=objective.dtype)
    if not isinstance(inner, BatchedLogisticRegression):
        if smoothness is None:
            raise ValueError("the smoothness of these objectives is not known; state it")
        return accelerated(
            CompositeProblem(objective, NoProx(), smoothness), start, tolerance=tolerance
        )
    local = torch.tensor(logistic_smoothness(inner).L_i, dtype=torch.float64)
    problem = CompositeProblem(objective, NoProx(), float((weights * local).mean()))

    def hessian(x: Tensor) -> Tensor:
        deployed = objective.personal.deployed(x, objective.alpha)
        return mean_logistic_hessian(inner, deployed, weights)

    return newton(problem, hessian, start, tolerance=tolerance)
