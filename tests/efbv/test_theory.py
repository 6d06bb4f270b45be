import math
from dataclasses import replace

import pytest

from fedstrategies.compressors import (
    CompK,
    Constants,
    Identity,
    RandK,
    TopK,
    parse_compressor,
)
from fedstrategies.efbv import theory
from fedstrategies.objectives import Smoothness

REFERENCE = Smoothness(L=2.6862142339, L_tilde=3.3938773746, L_max=4.0, mu=0.1)


@pytest.mark.parametrize(
    ("k", "gamma"), [(1, 6.61698283e-4), (5, 3.39110351e-3), (56, 5.62200870e-2)]
)
def test_ef21_step_sizes_of_the_reference_runs(k: int, gamma: float) -> None:
    found = theory.ef21(TopK(k=k).constants(112), REFERENCE, clients=20)
    assert found.gamma == pytest.approx(gamma, rel=1e-8)
    assert (found.lam, found.nu, found.memory_step) == (1.0, 1.0, 1.0)


def test_efbv_constants_of_the_comp_reference() -> None:
    found = theory.efbv(CompK(k=1, k_prime=56).constants(112), REFERENCE, clients=20)
    assert found.lam == pytest.approx(0.005317, abs=5e-7)
    assert found.nu == pytest.approx(0.103285, abs=5e-7)
    assert found.r == pytest.approx(0.998443, abs=5e-7)
    assert found.r_av == pytest.approx(0.969749, abs=5e-7)
    assert found.s == pytest.approx(3.899e-4, abs=5e-8)
    assert found.gamma == pytest.approx(1.165229e-4, rel=1e-6)


def test_s_star_solves_its_equation_and_gamma_the_descent_condition() -> None:
    found = theory.efbv(RandK(k=3).constants(30), REFERENCE, clients=7)
    assert (1 + found.s) ** 2 * found.r == pytest.approx((found.r + 1) / 2, rel=1e-12)
    assert found.theta == pytest.approx(found.s * (1 + found.s) * found.r / found.r_av, rel=1e-12)
    coupling = REFERENCE.L_tilde**2 * found.r_av / (found.r * found.s**2)
    # The step size solves gamma (L + sqrt(coupling)) = 1, which implies the condition.
    assert found.gamma**2 * coupling + found.gamma * REFERENCE.L <= 1 + 1e-12


def test_identity_has_no_division_by_r_zero() -> None:
    found = theory.efbv(Identity().constants(10), REFERENCE, clients=4)
    assert found.r == 0.0
    assert found.s == math.inf
    assert found.gamma == pytest.approx(1 / REFERENCE.L, rel=1e-15)
    proximal = theory.efbv(Identity().constants(10), REFERENCE, clients=4, regularised=True)
    assert proximal.gamma == pytest.approx(1 / (2 * REFERENCE.L), rel=1e-15)


def test_participation_takes_the_rule_with_the_larger_step() -> None:
    top = TopK(k=5).constants(112)
    found = theory.efbv(top, REFERENCE, clients=20, cohort=10)
    scaled = top.group(20, cohort=10)
    assert found.gamma == pytest.approx(1.67e-3, rel=5e-3)
    assert found.memory_step == 1.0
    assert found.lam == 0.5
    generic = theory.efbv(
        top,
        REFERENCE,
        clients=20,
        cohort=10,
        lam=min(1.0, (1 - scaled.eta) / ((1 - scaled.eta) ** 2 + scaled.omega)),
    )
    assert generic.gamma == pytest.approx(3.8e-5, rel=2e-2)


def test_ef21_under_participation_is_ef21_pp() -> None:
    top = TopK(k=5).constants(112)
    found = theory.ef21(top, REFERENCE, clients=20, cohort=5)
    assert found.memory_step == found.gradient_step == 1.0
    assert found.r == pytest.approx(1 - 0.25 * 5 / 112, rel=1e-12)


def test_a_contractive_composition_uses_its_own_error() -> None:
    # top-k then natural: eta^2 + omega exceeds 1, yet E||C(x)-x||^2 <= (1 - (7/8) k/d)||x||^2.
    operator = parse_compressor("top-k:k=5+natural").constants(112)
    assert operator.error == pytest.approx(1 - 7 / 8 * 5 / 112, rel=1e-12)
    found = theory.ef21(operator, REFERENCE, clients=20)
    assert (found.lam, found.r) == (1.0, operator.error)
    efbv = theory.efbv(operator, REFERENCE, clients=20)
    assert efbv.gamma >= found.gamma
    part = theory.efbv(operator, REFERENCE, clients=20, cohort=10)
    assert part.r == pytest.approx(1 - 0.5 * (1 - operator.error), rel=1e-12)


def test_diana() -> None:
    rand = RandK(k=5).constants(112)
    found = theory.diana(rand, REFERENCE, clients=20)
    omega = 112 / 5 - 1
    assert found.nu == 1.0
    assert found.lam == pytest.approx(1 / (1 + omega))
    assert found.gamma == pytest.approx(1 / (REFERENCE.L_max * (1 + 6 * omega / 20)))
    with pytest.raises(ValueError, match="unbiased"):
        theory.diana(TopK(k=5).constants(112), REFERENCE, clients=20)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="lambda"):
        theory.efbv(RandK(k=1).constants(9), REFERENCE, clients=3, lam=1.5)
    with pytest.raises(ValueError, match="no step size"):
        theory.efbv(RandK(k=1).constants(9), REFERENCE, clients=3, lam=1.0)
    with pytest.raises(ValueError, match="memory"):
        theory.gradient_descent(Identity().constants(9), REFERENCE, clients=3, cohort=2)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("omega", [0.0, 0.5, 40.0])
def test_lambda_star_minimises_r(eta: float, omega: float) -> None:
    operator = Constants(eta=eta, omega=omega, second_moment=1 + omega)
    best = theory.efbv(operator, REFERENCE, clients=10)
    for lam in (best.lam * 0.9, min(1.0, best.lam * 1.1)):
        r = (1 - lam + lam * eta) ** 2 + lam**2 * omega
        assert r >= best.r - 1e-15


@pytest.mark.parametrize(
    ("gamma", "mu", "r", "plain", "regularised"),
    [
        # Descent decides: 1 - 0.2 * 0.5 and 1 / (1 + 0.2 * 0.5 / 2).
        (0.2, 0.5, 0.5, 0.9, 1 / 1.05),
        # Compression decides: (0.98 + 1) / 2.
        (0.2, 0.5, 0.98, 0.99, 0.99),
        # One each: 1 - 0.4 is below (0.5 + 1) / 2 = 0.75 < 1 / 1.2.
        (0.8, 0.5, 0.5, 0.75, 1 / 1.2),
        # Neither convexity nor compression: f does not contract, the error halves.
        (0.2, 0.0, 0.0, 1.0, 1.0),
    ],
)
def test_rate_is_the_slower_of_descent_and_compression(
    gamma: float, mu: float, r: float, plain: float, regularised: float
) -> None:
    any_theory = theory.ef21(TopK(k=5).constants(112), REFERENCE, clients=20)
    found = replace(any_theory, gamma=gamma, r=r)
    assert found.rate(mu) == pytest.approx(plain, rel=1e-15)
    assert found.rate(mu, regularised=True) == pytest.approx(regularised, rel=1e-15)


@pytest.mark.parametrize("clients", [1, 3, 5, 20])
@pytest.mark.parametrize("spec", ["top-k:k=20+qsgd:levels=8", "top-k:k=5+natural", "top-k:k=5"])
def test_efbv_never_allows_less_than_ef21(spec: str, clients: int) -> None:
    operator = parse_compressor(spec).constants(112)
    mine = theory.efbv(operator, REFERENCE, clients=clients)
    assert mine.gamma >= theory.ef21(operator, REFERENCE, clients=clients).gamma
