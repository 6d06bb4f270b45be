"""Scalings and step sizes of EF-BV, EF21 and DIANA.

Source: Condat, Yi, Richtarik, "EF-BV: A unified theory of error feedback and variance reduction
mechanisms for biased and unbiased compression in distributed optimization" (2022), and the
dissertation arXiv 2509.08233. The participation rules are derived in docs/algorithms/efbv.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, sqrt

from fedstrategies.compressors import Constants, GroupConstants
from fedstrategies.objectives import Smoothness

__all__ = ["Theory", "diana", "ef21", "efbv", "gradient_descent"]


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


def efbv(
    operator: Constants,
    smoothness: Smoothness,
    *,
    clients: int,
    cohort: int | None = None,
    lam: float | None = None,
    nu: float | None = None,
    regularised: bool = False,
) -> Theory:
    """EF-BV: ``lambda* = min(1, (1-eta)/((1-eta)^2 + omega))``, nu* the same of omega_av.

    Under participation of m of n the operator is C_i = (n/m) 1_{i in S} C, unless the rule of
    `ef21` (unscaled messages, contraction factor 1 - (m/n) a) allows a larger step. For a
    contractive composition lambda = 1 is tried too: its error can be below eta^2 + omega.

    Parameters
    ----------
    operator : Constants
        Of the compressor in dimension d.
    smoothness : Smoothness
        L of f and ``L_tilde = sqrt((1/n) sum L_i^2)``.
    clients, cohort : int
        n and m (None: m = n).
    lam, nu : float or None
        Overrides of lambda and nu.
    regularised : bool
        Whether R != 0, which costs a factor two in front of L.

    Raises
    ------
    ValueError
        If lambda or nu leave (0, 1], or no step size is possible (r >= 1).
    """
    m = clients if cohort is None else cohort
    group = operator.group(clients, cohort=m)
    scale = clients / m
    chosen_nu = _optimal(group.eta, group.omega_av) if nu is None else _in_range("nu", nu)

    def scaled(chosen_lam: float) -> Theory:
        return _assemble(
            group,
            smoothness,
            lam=chosen_lam,
            nu=chosen_nu,
            memory_step=chosen_lam * scale,
            gradient_step=chosen_nu * scale,
            r=_memory_factor(operator, chosen_lam) if m == clients else None,
            # An average of errors is at most as large as they are.
            r_av=min(_factor(group.eta, group.omega_av, 1.0), operator.error)
            if m == clients and chosen_nu == 1
            else None,
            regularised=regularised,
        )

    if lam is not None:
        return _require_step(scaled(_in_range("lambda", lam)), "EF-BV")
    choices = [scaled(_optimal(group.eta, group.omega))]
    contractive = operator.error < 1
    if m == clients and contractive:
        choices.append(scaled(1.0))
    if m < clients and nu is None:
        scalings = {_optimal(operator.eta, operator.omega), *([1.0] if contractive else [])}
        choices.extend(
            _participants_only(operator, smoothness, clients, m, mu, regularised)
            for mu in sorted(scalings)
        )
    return _require_step(max(choices, key=lambda theory: theory.gamma), "EF-BV")


def ef21(
    operator: Constants,
    smoothness: Smoothness,
    *,
    clients: int,
    cohort: int | None = None,
    regularised: bool = False,
) -> Theory:
    """EF21: lambda = nu = 1 on a contractive operator; on any other, on lambda* C.

    With m of n participants their messages are added unscaled (EF21-PP), which is
    lambda = nu = m/n on the scaled operator, with ``r = r_av = 1 - (m/n) a``.
    """
    mu = 1.0 if operator.error < 1 else _optimal(operator.eta, operator.omega)
    m = clients if cohort is None else cohort
    if m < clients:
        return _participants_only(operator, smoothness, clients, m, mu, regularised)
    group = operator.group(clients)
    # That averaging reduces the variance is EF-BV's gain: EF21's analysis has r_av = r.
    factor = _memory_factor(operator, mu)
    theory = _assemble(
        group,
        smoothness,
        lam=mu,
        nu=mu,
        memory_step=mu,
        gradient_step=mu,
        r=factor,
        r_av=factor,
        regularised=regularised,
    )
    return _require_step(theory, "EF21")


def diana(
    operator: Constants,
    smoothness: Smoothness,
    *,
    clients: int,
    cohort: int | None = None,
) -> Theory:
    """DIANA: nu = 1, ``lambda = 1/(1+omega)``, ``gamma = 1/(L_max (1 + 6 omega_av))``.

    Raises
    ------
    ValueError
        If the compressor is biased: DIANA's estimate g would be biased for ever.
    """
    if not operator.unbiased:
        raise ValueError(
            f"DIANA needs an unbiased compressor, this one has relative bias eta = "
            f"{operator.eta:.4g}; use EF-BV or EF21, or rand-k, natural, qsgd"
        )
    m = clients if cohort is None else cohort
    group = operator.group(clients, cohort=m)
    lam = 1 / (1 + group.omega)
    scale = clients / m
    theory = _assemble(
        group,
        smoothness,
        lam=lam,
        nu=1.0,
        memory_step=lam * scale,
        gradient_step=scale,
        regularised=False,
    )
    gamma = 1 / (smoothness.L_max * (1 + 6 * group.omega_av))
    return replace(theory, gamma=gamma)


def gradient_descent(
    operator: Constants,
    smoothness: Smoothness,
    *,
    clients: int,
    cohort: int | None = None,
) -> Theory:
    """(Proximal) gradient descent: the identity operator and gamma = 1/L, with or without R."""
    if cohort is not None and cohort < clients:
        raise ValueError(
            "gradient descent with part of the clients does not converge to the solution; "
            "use EF-BV with the identity compressor, which keeps a memory"
        )
    group = operator.group(clients)
    theory = _assemble(
        group, smoothness, lam=1.0, nu=1.0, memory_step=1.0, gradient_step=1.0, regularised=False
    )
    return replace(theory, gamma=1 / smoothness.L)


def _optimal(eta: float, omega: float) -> float:
    return min(1.0, (1 - eta) / ((1 - eta) ** 2 + omega))


def _factor(eta: float, omega: float, scaling: float) -> float:
    return (1 - scaling + scaling * eta) ** 2 + scaling**2 * omega


def _memory_factor(operator: Constants, scaling: float) -> float:
    """r(lambda) when everyone takes part; at lambda = 1 it is the operator's own error."""
    bound = _factor(operator.eta, operator.omega, scaling)
    return min(bound, operator.error) if scaling == 1 else bound


def _in_range(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} = {value} is outside (0, 1]")
    return value


def _participants_only(
    operator: Constants,
    smoothness: Smoothness,
    clients: int,
    cohort: int,
    mu: float,
    regularised: bool,
) -> Theory:
    """Unscaled mu C(.) from the participants alone: contraction factor 1 - (m/n)(1 - r(mu))."""
    share = cohort / clients
    factor = 1 - share * (1 - _memory_factor(operator, mu))
    group = operator.group(clients, cohort=cohort)
    return _assemble(
        group,
        smoothness,
        lam=mu * share,
        nu=mu * share,
        memory_step=mu,
        gradient_step=mu,
        r=factor,
        r_av=factor,
        regularised=regularised,
    )


def _assemble(
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
    r = _factor(group.eta, group.omega, lam) if r is None else r
    r_av = _factor(group.eta, group.omega_av, nu) if r_av is None else r_av
    # q = s* sqrt(r) written so that it is exact at r = 0 (s* infinite) and stable at r -> 1.
    q = ((1 - r) / 2) / (sqrt((1 + r) / 2) + sqrt(r)) if r < 1 else 0.0
    coupling = smoothness.L_tilde * sqrt(r_av) / q if q > 0 else inf
    gamma = 1 / ((2 if regularised else 1) * smoothness.L + coupling)
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


def _require_step(theory: Theory, method: str) -> Theory:
    if theory.gamma <= 0:
        raise ValueError(
            f"{method}'s analysis allows no step size here: r = {theory.r:.6g} >= 1 at "
            f"lambda = {theory.lam:.6g}; choose a smaller lambda or a finer compressor"
        )
    return theory
