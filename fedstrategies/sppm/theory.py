"""What is known of SPPM-AS: rate, neighbourhood, step size and number of steps.

For f_i that are differentiable and mu_i-strongly convex (no smoothness is needed) and any
sampling with p_i > 0, ``x* = prox_{gamma f_C}(x* + gamma grad f_C(x*))`` and the prox is
``1/(1 + gamma mu_C)``-Lipschitz. Hence, with E grad f_C(x*) = grad f(x*) = 0,

    E ||x_{t+1} - x*||^2 <= (||x_t - x*||^2 + gamma^2 sigma^2)/(1 + gamma mu)^2,
    E ||x_t - x*||^2 <= (1 + gamma mu)^{-2t} ||x_0 - x*||^2 + gamma sigma^2/(gamma mu^2 + 2 mu),

where ``mu = mu_AS = min_C sum_{i in C} mu_i/(n p_i)`` and
``sigma^2 = sigma^2_{*,AS} = E ||grad f_C(x*)||^2``. With a regulariser R the same holds for the
minimiser of f + R and ``sigma^2 = E ||grad f_C(x*) - grad f(x*)||^2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log

import torch
from torch import Tensor

from fedstrategies.sampling import Sampling

__all__ = ["Theory", "sppm"]


@dataclass(frozen=True, kw_only=True)
class Theory:
    """The constants of a sampling on a problem, and what follows.

    Attributes
    ----------
    mu : float
        mu_AS >= 0.
    sigma_sq : float or None
        sigma^2_{*,AS}; None where x* is not known.
    """

    mu: float
    sigma_sq: float | None = None

    def rate(self, gamma: float) -> float:
        """``(1 + gamma mu)^{-2}``, the factor of one outer step."""
        return (1 + gamma * self.mu) ** -2

    def neighbourhood(self, gamma: float) -> float:
        """``gamma sigma^2/(gamma mu^2 + 2 mu)``; sigma^2/mu^2 as gamma grows.

        Raises
        ------
        ValueError
            If sigma^2 is not known.
        """
        variance = self._variance()
        if variance == 0.0:
            return 0.0
        return inf if self.mu == 0.0 else gamma * variance / (gamma * self.mu**2 + 2 * self.mu)

    def bound(self, gamma: float, steps: int, distance_sq: float) -> float:
        """Largest ``E ||x_t - x*||^2`` after t = ``steps``, from ``||x_0 - x*||^2``.

        Raises
        ------
        ValueError
            If sigma^2 is not known.
        """
        return self.rate(gamma) ** steps * distance_sq + self.neighbourhood(gamma)

    def stepsize(self, accuracy: float) -> float:
        """``gamma = eps mu/sigma^2``, whose neighbourhood is at most eps/2; inf if sigma^2 = 0.

        Raises
        ------
        ValueError
            If sigma^2 is not known or mu is zero.
        """
        self._need_convexity()
        variance = self._variance()
        return inf if variance == 0.0 else accuracy * self.mu / variance

    def steps(self, accuracy: float, distance_sq: float) -> int:
        """T with ``E ||x_T - x*||^2 <= eps`` at `stepsize`.

        ``T >= (sigma^2/(2 eps mu^2) + 1/2) log(2 ||x_0 - x*||^2/eps)``, since the rest of the
        bound is below eps/2 once ``2 T log(1 + gamma mu) >= log(2 D/eps)``, and
        ``1/log(1 + a) <= 1/a + 1/2``.

        Raises
        ------
        ValueError
            If sigma^2 is not known or mu is zero.
        """
        self._need_convexity()
        ratio = self._variance() / (2 * accuracy * self.mu**2)
        return max(ceil((ratio + 0.5) * log(max(2 * distance_sq / accuracy, 1.0))), 1)

    def _variance(self) -> float:
        if self.sigma_sq is None:
            raise ValueError("sigma^2 at the solution is not known; give gradients at x*")
        return self.sigma_sq

    def _need_convexity(self) -> None:
        if self.mu == 0.0:
            raise ValueError("mu_AS = 0: there is no linear rate for this sampling")


def sppm(sampling: Sampling, *, mu_i: tuple[float, ...], gradients: Tensor | None = None) -> Theory:
    """The constants of a sampling.

    Parameters
    ----------
    sampling : Sampling
        The law of the cohorts.
    mu_i : tuple of float
        Strong convexity of each f_i.
    gradients : Tensor or None
        grad f_i(x*), shape (n, d).
    """
    convexity = torch.tensor(mu_i, dtype=torch.float64)
    return Theory(
        mu=sampling.strong_convexity(convexity),
        sigma_sq=None if gradients is None else sampling.variance(gradients),
    )
