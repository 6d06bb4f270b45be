"""Scalings and step sizes of EF-BV, EF21 and DIANA.

Source: Condat, Yi, Richtarik, "EF-BV: A unified theory of error feedback and variance reduction
mechanisms for biased and unbiased compression in distributed optimization" (2022), and the
dissertation arXiv 2509.08233. The participation rules are derived in docs/algorithms/efbv.md.
"""

from __future__ import annotations

from dataclasses import replace

from fedstrategies.compressors import Constants
from fedstrategies.efbv.constants import Theory, assemble, factor, memory_factor, optimal
from fedstrategies.objectives import Smoothness

__all__ = ["Theory", "diana", "ef21", "efbv", "gradient_descent"]


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
    contractive composition lambda = 1 and nu = 1 are tried too: its error can be below
    eta^2 + omega.

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
    everyone = m == clients
    contractive = operator.error < 1

    def scaled(chosen_lam: float, chosen_nu: float) -> Theory:
        return assemble(
            group,
            smoothness,
            lam=chosen_lam,
            nu=chosen_nu,
            memory_step=chosen_lam * scale,
            gradient_step=chosen_nu * scale,
            r=memory_factor(operator, chosen_lam) if everyone else None,
            # An average of errors is at most as large as they are.
            r_av=min(factor(group.eta, group.omega_av, 1.0), operator.error)
            if everyone and chosen_nu == 1
            else None,
            regularised=regularised,
        )

    def candidates(name: str, chosen: float | None, omega: float) -> list[float]:
        if chosen is not None:
            return [_in_range(name, chosen)]
        best = optimal(group.eta, omega)
        return [best, 1.0] if everyone and contractive else [best]

    choices = [
        scaled(chosen_lam, chosen_nu)
        for chosen_lam in candidates("lambda", lam, group.omega)
        for chosen_nu in candidates("nu", nu, group.omega_av)
    ]
    if not everyone and lam is None and nu is None:
        scalings = {optimal(operator.eta, operator.omega), *([1.0] if contractive else [])}
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
    mu = 1.0 if operator.error < 1 else optimal(operator.eta, operator.omega)
    m = clients if cohort is None else cohort
    if m < clients:
        return _participants_only(operator, smoothness, clients, m, mu, regularised)
    group = operator.group(clients)
    # That averaging reduces the variance is EF-BV's gain: EF21's analysis has r_av = r.
    r = memory_factor(operator, mu)
    theory = assemble(
        group,
        smoothness,
        lam=mu,
        nu=mu,
        memory_step=mu,
        gradient_step=mu,
        r=r,
        r_av=r,
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
    theory = assemble(
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
    """(Proximal) gradient descent: the identity operator and gamma = 1/L, with or without R.

    Dense messages leave nothing to correct, so h_i = 0 throughout (``memory_step`` = 0).
    """
    if cohort is not None and cohort < clients:
        raise ValueError(
            "gradient descent with part of the clients does not converge to the solution; "
            "use EF-BV with the identity compressor, which keeps a memory"
        )
    group = operator.group(clients)
    theory = assemble(
        group, smoothness, lam=1.0, nu=1.0, memory_step=0.0, gradient_step=1.0, regularised=False
    )
    return replace(theory, gamma=1 / smoothness.L)


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
    r = 1 - share * (1 - memory_factor(operator, mu))
    group = operator.group(clients, cohort=cohort)
    return assemble(
        group,
        smoothness,
        lam=mu * share,
        nu=mu * share,
        memory_step=mu,
        gradient_step=mu,
        r=r,
        r_av=r,
        regularised=regularised,
    )


def _require_step(theory: Theory, method: str) -> Theory:
    if theory.gamma <= 0:
        raise ValueError(
            f"{method}'s analysis allows no step size here: r = {theory.r:.6g} >= 1 at "
            f"lambda = {theory.lam:.6g}; choose a smaller lambda or a finer compressor"
        )
    return theory
