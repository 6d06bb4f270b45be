"""What the analysis of EF-BV chooses, and how it follows from an operator's constants."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

from fedstrategies.compressors import Constants, GroupConstants
from fedstrategies.objectives import Smoothness

__all__ = ["Theory", "assemble", "coupling", "factor", "memory_factor", "optimal", "reserve"]


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Everything the analysis chooses, and what it chose it from.

    Attributes
    ----------
    lam, nu : float
        lambda and nu: scalings of the memory's and of the gradient estimate's update.
    memory_step, gradient_step : float
        The same as factors of an *unscaled* message C(.) of a participant, that is
        ``(n/m) lambda`` and ``(n/m) nu``; equal to lambda and nu when everyone takes part.
    r, r_av : float
        ``r = (1-lambda+lambda eta)^2 + lambda^2 omega`` and the same of (nu, omega_av).
    s, theta : float
        ``s* = sqrt((1+r)/(2r)) - 1`` and ``theta* = s*(1+s*) r/r_av`` (infinite if r or r_av
        is 0).
    gamma : float
        The largest step size the analysis allows.
    eta, omega, omega_av : float
        Constants of the operator, participation included.
    """

    lam: float
    nu: float
    memory_step: float
    gradient_step: float
    r: float
    r_av: float
    s: float
    theta: float
    gamma: float
    eta: float
    omega: float
    omega_av: float

    def rate(self, mu: float, *, regularised: bool = False) -> float:
        """Contraction factor per round of the Lyapunov function Psi at step gamma.

        ``max(1 - gamma mu, (r+1)/2)`` for R = 0 (mu: Polyak-Lojasiewicz constant of f), and
        ``max(1/(1 + gamma mu/2), (r+1)/2)`` otherwise (mu: strong convexity of f + R).
        """
        descent = 1 / (1 + self.gamma * mu / 2) if regularised else 1 - self.gamma * mu
        return max(descent, (self.r + 1) / 2)


def optimal(eta: float, omega: float) -> float:
    """``min(1, (1-eta) / ((1-eta)^2 + omega))``: the scaling that minimises `factor`."""
    return min(1.0, (1 - eta) / ((1 - eta) ** 2 + omega))


def factor(eta: float, omega: float, scaling: float) -> float:
    """``(1-scaling+scaling eta)^2 + scaling^2 omega``: r of lambda, r_av of nu."""
    return (1 - scaling + scaling * eta) ** 2 + scaling**2 * omega


def memory_factor(operator: Constants, scaling: float) -> float:
    """r(lambda) when everyone takes part; at lambda = 1 it is the operator's own error."""
    bound = factor(operator.eta, operator.omega, scaling)
    return min(bound, operator.error) if scaling == 1 else bound


def reserve(r: float) -> float:
    """``s* sqrt(r) = sqrt((1+r)/2) - sqrt(r)``: exact at r = 0 (s* infinite), stable at r -> 1."""
    return ((1 - r) / 2) / (sqrt((1 + r) / 2) + sqrt(r)) if r < 1 else 0.0


def coupling(r: float, r_av: float, smoothness: Smoothness) -> float:
    """``L_tilde sqrt(r_av/r) / s*``, what the uplink's errors cost beside L; infinite if r >= 1."""
    q = reserve(r)
    return smoothness.L_tilde * sqrt(r_av) / q if q > 0 else inf


def assemble(
    group: GroupConstants,
    smoothness: Smoothness,
    *,
    lam: float,
    nu: float,
    memory_step: float,
    gradient_step: float,
    r: float | None = None,
    r_av: float | None = None,
    regularised: bool,
) -> Theory:
    """The step size that these scalings allow; ``gamma = 0`` if none (r >= 1).

    ``gamma = 1 / (L + L_tilde sqrt(r_av/r) / s*)``, with 2L in place of L if ``regularised``.
    r and r_av follow from the group's constants unless they are known to be smaller.
    """
    r = factor(group.eta, group.omega, lam) if r is None else r
    r_av = factor(group.eta, group.omega_av, nu) if r_av is None else r_av
    q = reserve(r)
    gamma = 1 / ((2 if regularised else 1) * smoothness.L + coupling(r, r_av, smoothness))
    return Theory(
        lam=lam,
        nu=nu,
        memory_step=memory_step,
        gradient_step=gradient_step,
        r=r,
        r_av=r_av,
        s=q / sqrt(r) if r > 0 else inf,
        theta=q * (sqrt(r) + q) / r_av if r_av > 0 else inf,
        gamma=gamma,
        eta=group.eta,
        omega=group.omega,
        omega_av=group.omega_av,
    )
