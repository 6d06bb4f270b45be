"""Step sizes, communication probability and rate of Scafflix, and its Lyapunov function.

Why these: with ``F_i(x) = f_i(alpha_i x + (1 - alpha_i) x_i*)``, steps ``gamma_i/alpha_i^2`` and
control variates ``alpha_i h_i``, Scafflix is i-Scaffnew, and in the norm weighted by
``alpha_i^2/gamma_i`` that is ProxSkip with R the indicator of consensus. A gradient step with
gamma_i <= 1/L_i contracts ``||x~_i - x~_i*||^2 / gamma_i`` by ``1 - gamma_i mu_i``; the coin pays
for the rest: the part of the control variates shrinks by ``1 - p^2``. Both happen at every local
step, so the rate is ``1 - zeta``, ``zeta = min(min_i gamma_i mu_i, p^2)``. The two balance at
``p = 1/sqrt(kappa_max)``.

Source: Yi, Condat, Richtarik (2023); dissertation arXiv 2509.08233, chapter on Scafflix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt

from torch import Tensor

from fedstrategies.objectives import Smoothness

__all__ = [
    "Theory",
    "flix_stepsize",
    "individual_steps",
    "lyapunov",
    "scafflix",
    "scaffnew",
]


@dataclass(frozen=True, kw_only=True)
class Theory:
    """What the analysis chooses, and what follows from it.

    Attributes
    ----------
    gamma, alpha : tuple of float
        gamma_i and alpha_i of each client. A client with alpha_i = 0 is purely local: no
        constant below depends on it.
    p : float
        Communication probability; one round every 1/p local steps on average.
    server_gamma : float
        ``gamma = ((1/n) sum_i alpha_i^2/gamma_i)^-1``.
    kappa_max : float or None
        ``max_i L_i/mu_i``; None where L_i or mu_i are not known.
    zeta : float or None
        ``min(min_i gamma_i mu_i, p^2)``; None where mu_i are not known or a gamma_i exceeds
        1/L_i, which the analysis does not cover.
    """

    gamma: tuple[float, ...]
    alpha: tuple[float, ...]
    p: float
    server_gamma: float
    kappa_max: float | None = None
    zeta: float | None = None

    @property
    def gamma_min(self) -> float:
        """``min_i gamma_i`` over the clients that train."""
        return min(self._active(self.gamma))

    def neighbourhood(self, variances: Sequence[float]) -> float:
        """``(gamma_min/zeta)(1/n) sum_i gamma_i C_i``: where Psi ends up with stochastic gradients.

        Parameters
        ----------
        variances : sequence of float
            C_i, with ``E||g_i - grad f_i(x~_i*)||^2 <= 2 A_i D_i + C_i`` and gamma_i <= 1/A_i.

        Raises
        ------
        ValueError
            If there is no rate.
        """
        if self.zeta is None:
            raise ValueError("the neighbourhood needs mu_i > 0 and gamma_i <= 1/L_i")
        gamma, noise = self._active(self.gamma), self._active(tuple(variances))
        mean = fsum(g * c for g, c in zip(gamma, noise, strict=True)) / len(gamma)
        return self.gamma_min / self.zeta * mean

    def numbers(self) -> dict[str, float]:
        """The constants by name; of the gamma_i the range."""
        known = {
            "p": self.p,
            "server_gamma": self.server_gamma,
            "gamma_min": self.gamma_min,
            "gamma_max": max(self._active(self.gamma)),
            "kappa_max": self.kappa_max,
            "zeta": self.zeta,
        }
        return {name: value for name, value in known.items() if value is not None}

    def _active(self, values: tuple[float, ...]) -> list[float]:
        return [value for value, weight in zip(values, self.alpha, strict=True) if weight > 0]


def individual_steps(smoothness: Smoothness) -> tuple[float, ...]:
    """``gamma_i = 1/L_i``.

    Raises
    ------
    ValueError
        If the L_i are not known.
    """
    return tuple(1 / constant for constant in _known(smoothness.L_i, "L_i"))


def flix_stepsize(smoothness: Smoothness, *, alpha: Sequence[float]) -> float:
    """``1/((1/n) sum_i alpha_i^2 L_i)``: gradient descent on the FLIX objective.

    The mean is over the clients that train (alpha_i > 0), as the server's is.

    Raises
    ------
    ValueError
        If the L_i are not known.
    """
    local = _known(smoothness.L_i, "L_i")
    terms = [a * a * L for a, L in zip(alpha, local, strict=True) if a > 0]
    return len(terms) / fsum(terms)


def scafflix(
    smoothness: Smoothness | None,
    *,
    alpha: Sequence[float],
    gamma: Sequence[float] | None = None,
    p: float | None = None,
) -> Theory:
    """The constants of Scafflix; i-Scaffnew is alpha_i = 1, Scaffnew equal gamma_i as well.

    Parameters
    ----------
    smoothness : Smoothness or None
        L_i and mu_i; needed for what is not given.
    alpha : sequence of float
        alpha_i in [0, 1], one per client, not all 0.
    gamma : sequence of float or None
        gamma_i; None: 1/L_i.
    p : float or None
        None: ``1/sqrt(kappa_max)``.

    Raises
    ------
    ValueError
        If L_i or mu_i are needed and not known.
    """
    weights = tuple(map(float, alpha))
    if smoothness is None and (gamma is None or p is None):
        raise ValueError(
            "the theory needs smoothness=Smoothness(...) with L_i and mu_i of the clients; give "
            "it, or stepsize and p (or local_steps) as numbers"
        )
    steps = individual_steps(smoothness) if gamma is None and smoothness else tuple(gamma or ())
    active = [i for i, weight in enumerate(weights) if weight > 0]
    kappa_max = _worst_condition(smoothness, active)
    if p is None:
        if kappa_max is None:
            raise ValueError(
                "the theory's p = 1/sqrt(kappa_max) needs L_i and mu_i > 0 of every client; give "
                "p or local_steps"
            )
        p = 1 / sqrt(kappa_max)
    return Theory(
        gamma=steps,
        alpha=weights,
        p=p,
        server_gamma=len(active) / fsum(weights[i] ** 2 / steps[i] for i in active),
        kappa_max=kappa_max,
        zeta=_rate(smoothness, steps, p, active),
    )


def scaffnew(
    smoothness: Smoothness | None, *, gamma: Sequence[float], p: float | None = None
) -> Theory:
    """Scaffnew: alpha_i = 1 and a common gamma, for which ``kappa = L_max / min_i mu_i``.

    Parameters
    ----------
    smoothness : Smoothness or None
        Needed for p.
    gamma : sequence of float
        The common step, once per client.
    p : float or None
        None: ``sqrt(min_i mu_i / L_max)``.

    Raises
    ------
    ValueError
        If p is not given and does not follow.
    """
    ones = (1.0,) * len(gamma)
    if p is None and smoothness is not None:
        convexity = _known(smoothness.mu_i, "mu_i")
        p = sqrt(min(convexity) / smoothness.L_max) or None
    return scafflix(smoothness, alpha=ones, gamma=gamma, p=p)


def lyapunov(
    *,
    points: Tensor,
    solutions: Tensor,
    shifts: Tensor,
    gradients: Tensor,
    gamma: Tensor,
    p: float,
) -> Tensor:
    """Psi, which contracts by ``1 - zeta`` per local step in expectation.

    ``Psi = (1/n) sum_i (gamma_min/gamma_i) ||x~_i - x~_i*||^2
    + (gamma_min/p^2)(1/n) sum_i gamma_i ||h_i - grad f_i(x~_i*)||^2``

    Parameters
    ----------
    points, solutions : Tensor
        x~_i and x~_i*, the deployed models at the iterates and at the solution: (..., n, d).
    shifts, gradients : Tensor
        h_i and grad f_i(x~_i*): (..., n, d).
    gamma : Tensor
        gamma_i, shape (n,).
    p : float
        Communication probability.

    Returns
    -------
    Tensor
        Shape (...).
    """
    smallest = gamma.min()
    distance = (points - solutions).square().sum(dim=-1)
    drift = (shifts - gradients).square().sum(dim=-1)
    return (smallest / gamma * distance + smallest / p**2 * gamma * drift).mean(dim=-1)


def _known(constants: tuple[float, ...] | None, name: str) -> tuple[float, ...]:
    if constants is None:
        raise ValueError(
            f"the theory needs {name} of every client; give Smoothness(..., L_i=..., mu_i=...), or "
            "numbers as stepsize and p (or local_steps)"
        )
    return constants


def _worst_condition(smoothness: Smoothness | None, active: list[int]) -> float | None:
    if smoothness is None or smoothness.L_i is None or smoothness.mu_i is None:
        return None
    if any(smoothness.mu_i[i] <= 0 for i in active):
        return None
    return max(smoothness.L_i[i] / smoothness.mu_i[i] for i in active)


def _rate(
    smoothness: Smoothness | None, steps: tuple[float, ...], p: float, active: list[int]
) -> float | None:
    if smoothness is None or smoothness.L_i is None or smoothness.mu_i is None:
        return None
    local, convexity = smoothness.L_i, smoothness.mu_i
    if any(steps[i] * local[i] > 1 + 1e-12 or convexity[i] <= 0 for i in active):
        return None
    return min(min(steps[i] * convexity[i] for i in active), p * p)
