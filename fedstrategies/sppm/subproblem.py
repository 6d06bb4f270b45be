"""The problem that a cohort solves: the proximal operator of its own objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedstrategies.objectives import NoProx, Prox, SquaredL2

__all__ = ["ProxProblem", "prox_of_quadratic", "prox_problem"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProxProblem:
    """``min_z phi(z) + R(z)`` with ``phi(z) = f_C(z) + (c/2) ||z - a||^2``.

    Attributes
    ----------
    centre : Tensor
        a, shape (d,).
    curvature : float
        c > 0.
    smoothness : float or None
        L_C, a smoothness constant of f_C; None where it is not known.
    weight : float
        ``W = sum_{i in C} 1/(n p_i)``, the weight of the cohort in f_C.
    prox : Prox
        What is left of R: `NoProx` unless R has a kink or a boundary.
    """

    centre: Tensor
    curvature: float
    smoothness: float | None
    weight: float
    prox: Prox = field(default_factory=NoProx)

    @property
    def smooth(self) -> bool:
        """Whether R = 0 here, so that gradients say everything."""
        return isinstance(self.prox, NoProx)

    @property
    def stepsize(self) -> float | None:
        """``1/(L_C + c)``, with which a gradient step is sure to descend; None if L_C is unknown.

        With it gradient descent contracts the distance to the solution by
        ``1 - (c + mu_C)/(c + L_C)`` a step.
        """
        return None if self.smoothness is None else 1 / (self.smoothness + self.curvature)

    def gradient(self, z: Tensor, cohort_gradient: Tensor) -> Tensor:
        """``grad phi(z) = grad f_C(z) + c (z - a)``: shape (d,)."""
        return cohort_gradient + self.curvature * (z - self.centre)


def prox_problem(
    x: Tensor, *, gamma: float, prox: Prox, smoothness: float | None, weight: float
) -> ProxProblem:
    """The problem of ``prox_{gamma (f_C + R)}(x)``.

    ``R = (lam/2) ||z||^2`` joins the quadratic exactly, as
    ``(lam/2)||z||^2 + ||z-x||^2/(2 gamma) = (c/2) ||z-a||^2 + const`` with ``c = lam + 1/gamma``
    and ``a = x/(1 + gamma lam)``: no solver needs to know of it.

    Parameters
    ----------
    x : Tensor
        x_t, shape (d,).
    gamma : float
        Prox step size, any positive number.
    prox : Prox
        R.
    smoothness, weight : float
        See `ProxProblem`.
    """
    if isinstance(prox, SquaredL2):
        return ProxProblem(
            centre=x / (1 + gamma * prox.lam),
            curvature=prox.lam + 1 / gamma,
            smoothness=smoothness,
            weight=weight,
        )
    return ProxProblem(
        centre=x, curvature=1 / gamma, smoothness=smoothness, weight=weight, prox=prox
    )


def prox_of_quadratic(x: Tensor, *, hessian: Tensor, linear: Tensor, gamma: float) -> Tensor:
    """``prox_{gamma q}(x) = (I + gamma H)^{-1} (x + gamma b)`` of ``q(z) = z^T H z/2 - b^T z``.

    Parameters
    ----------
    x, linear : Tensor
        x and b, shape (..., d).
    hessian : Tensor
        H, symmetric positive semidefinite, shape (..., d, d).
    gamma : float
        Step size.

    Returns
    -------
    Tensor
        Shape of ``x``.
    """
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    solved: Tensor = torch.linalg.solve(
        identity + gamma * hessian, (x + gamma * linear).unsqueeze(-1)
    )
    return solved.squeeze(-1)
