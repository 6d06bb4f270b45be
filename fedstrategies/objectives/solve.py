"""The minimiser of ``F = (1/n) sum_i f_i + R`` to machine accuracy, for gaps and f*."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedstrategies.objectives.base import BatchedObjective
from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression
from fedstrategies.objectives.last_point import without_memory
from fedstrategies.objectives.logistic_hessian import mean_logistic_hessian
from fedstrategies.objectives.prox import NoProx, Prox, SquaredL2
from fedstrategies.objectives.smoothness import logistic_smoothness
from fedstrategies.reduce import sum_over_clients

__all__ = ["CompositeProblem", "Solution", "SolveError", "accelerated", "minimise", "newton"]

_NEWTON_STEPS = 200
_GRADIENT_STEPS = 200_000
_NEWTON_DIMENSION = 4000
_ARMIJO = 1e-4


class SolveError(RuntimeError):
    """The minimiser was not reached; the message says how far the solver came."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A minimiser of F.

    Attributes
    ----------
    x : Tensor
        Shape (d,).
    value : float
        F(x).
    residual : float
        ``L ||x - prox_{R/L}(x - grad f(x)/L)||``, the norm of the gradient mapping; Newton's
        method reports ``||grad F(x)||``, which is no smaller.
    steps : int
        Iterations taken.
    """

    x: Tensor
    value: float
    residual: float
    steps: int


def minimise(
    objective: BatchedObjective,
    prox: Prox | None = None,
    *,
    x0: Tensor | None = None,
    tolerance: float = 1e-11,
    smoothness: float | None = None,
) -> Solution:
    """Minimise ``F(x) = (1/n) sum_i f_i(x) + R(x)`` for convex f_i.

    For logistic regression and a smooth R: Newton's method with backtracking. Otherwise:
    accelerated proximal gradient steps 1/L, restarted whenever the momentum points uphill
    (B. O'Donoghue, E. Candes, "Adaptive restart for accelerated gradient schemes", 2015).

    Parameters
    ----------
    objective : BatchedObjective
        The f_i, evaluated in full.
    prox : Prox, optional
        R; None: zero.
    x0 : Tensor, optional
        Start, shape (d,); None: the origin.
    tolerance : float
        Largest `Solution.residual`.
    smoothness : float, optional
        L of f; None: computed, which only logistic regression allows.

    Raises
    ------
    SolveError
        If the residual stays above the tolerance (no minimiser exists, as for separable data
        without l2; or the tolerance is below what the dtype can reach).
    ValueError
        If L is needed and unknown.
    """
    regulariser = NoProx() if prox is None else prox
    batched = without_memory(objective)
    constant = logistic_smoothness(batched).L if smoothness is None else smoothness
    problem = CompositeProblem(batched, regulariser, constant)
    start = _origin(batched) if x0 is None else x0
    if (
        isinstance(batched, BatchedLogisticRegression)
        and isinstance(regulariser, NoProx | SquaredL2)
        and batched.dimension <= _NEWTON_DIMENSION
    ):
        curvature = regulariser.lam if isinstance(regulariser, SquaredL2) else 0.0
        return newton(
            problem,
            partial(mean_logistic_hessian, batched),
            start,
            curvature=curvature,
            tolerance=tolerance,
        )
    return accelerated(problem, start, tolerance=tolerance)


def _origin(batched: BatchedObjective) -> Tensor:
    device = batched.shards.device if isinstance(batched, BatchedLogisticRegression) else None
    return torch.zeros(batched.dimension, dtype=batched.dtype, device=device)


class CompositeProblem:
    """F = f + R, grad f and the gradient mapping; f the mean of the f_i, L its smoothness."""

    def __init__(self, batched: BatchedObjective, prox: Prox, smoothness: float) -> None:
        self.batched, self.prox, self.smoothness = batched, prox, smoothness
        self._ids = torch.arange(len(batched))

    def smooth_part(self, x: Tensor) -> tuple[float, Tensor]:
        """f(x) and grad f(x)."""
        values, gradients = self.batched.value_and_gradient(x)
        return float(values.mean()), sum_over_clients(gradients, self._ids) / len(self._ids)

    def proximal_step(self, x: Tensor, gradient: Tensor) -> Tensor:
        """``prox_{R/L}(x - grad f(x)/L)``."""
        return self.prox.prox(x - gradient / self.smoothness, 1.0 / self.smoothness)

    def residual(self, x: Tensor, gradient: Tensor) -> float:
        """Norm of the gradient mapping at x."""
        return self.smoothness * float(
            torch.linalg.vector_norm(x - self.proximal_step(x, gradient))
        )

    def solution(self, x: Tensor, value: float, residual: float, steps: int) -> Solution:
        """What was found."""
        return Solution(x=x, value=value + self.prox.value(x), residual=residual, steps=steps)

    def failure(self, steps: int, residual: float, tolerance: float) -> SolveError:
        """Why nothing was found."""
        return SolveError(
            f"no minimiser within {steps} steps: residual {residual:.2e} > {tolerance:.0e}; "
            "add l2, raise the tolerance or use float64"
        )


def newton(
    problem: CompositeProblem,
    hessian_at: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    curvature: float = 0.0,
    tolerance: float,
) -> Solution:
    """Newton's method with backtracking from x (d,).

    Parameters
    ----------
    problem : CompositeProblem
        With a smooth R.
    hessian_at : callable
        The Hessian (d, d) of f at a point.
    curvature : float
        The Hessian of R, a multiple of the identity.
    tolerance : float
        Largest gradient norm.

    Raises
    ------
    SolveError
        As `minimise`.
    """
    value, gradient = problem.smooth_part(x)
    residual = float("inf")
    for step in range(_NEWTON_STEPS):
        total = gradient + curvature * x
        residual = float(torch.linalg.vector_norm(total))
        if residual <= tolerance:
            return problem.solution(x, value, residual, step)
        hessian = hessian_at(x)
        hessian.diagonal().add_(curvature)
        # Features that never vary make the Hessian singular without l2; the floor is far below
        # the rounding of a Hessian that is not.
        hessian.diagonal().add_(1e-14 * float(hessian.diagonal().mean()))
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            direction = -total / (problem.smoothness + curvature)
        else:
            direction = -torch.cholesky_solve(total.unsqueeze(1), factor).squeeze(1)
        decrease = float(total @ direction)
        objective = value + problem.prox.value(x)
        length = 1.0
        while True:
            candidate = x + length * direction
            new_value, new_gradient = problem.smooth_part(candidate)
            new_objective = new_value + problem.prox.value(candidate)
            # Close to the minimum F is flat to rounding and only the gradient can tell.
            rounding = 8.0 * torch.finfo(x.dtype).eps * (abs(objective) + 1.0)
            if new_objective <= objective + _ARMIJO * length * decrease + rounding:
                break
            length *= 0.5
            if length < 1e-12:
                raise problem.failure(step, residual, tolerance)
        x, value, gradient = candidate, new_value, new_gradient
    raise problem.failure(_NEWTON_STEPS, residual, tolerance)


def accelerated(problem: CompositeProblem, x: Tensor, *, tolerance: float) -> Solution:
    """FISTA with gradient-based restart from x (d,).

    Raises
    ------
    SolveError
        As `minimise`.
    """
    x = problem.prox.prox(x, 1.0 / problem.smoothness)
    ahead, momentum, residual = x, 1.0, float("inf")
    for step in range(_GRADIENT_STEPS):
        _, gradient = problem.smooth_part(ahead)
        moved = problem.proximal_step(ahead, gradient)
        residual = problem.smoothness * float(torch.linalg.vector_norm(ahead - moved))
        if residual <= tolerance:
            value, gradient = problem.smooth_part(moved)
            residual = problem.residual(moved, gradient)
            if residual <= tolerance:
                return problem.solution(moved, value, residual, step + 1)
        if float((ahead - moved) @ (moved - x)) > 0.0:
            # Uphill: forget the momentum.
            ahead, momentum = moved, 1.0
        else:
            following = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum) ** 0.5)
            ahead = moved + ((momentum - 1.0) / following) * (moved - x)
            momentum = following
        x = moved
    raise problem.failure(_GRADIENT_STEPS, residual, tolerance)
