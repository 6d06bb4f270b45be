"""EF-BV with a compressed downlink: the step, its corners, and the exact Lyapunov contraction."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf, sqrt

import numpy as np
import pytest
import torch

from fedstrategies.compressors import (
    Compressor,
    Constants,
    Identity,
    RandK,
    ScaledRandK,
    TopK,
    parse_compressor,
)
from fedstrategies.efbv import DIANA, EF21, EFBV, GradientDescent, theory
from fedstrategies.efbv.downlink_theory import (
    BidirectionalTheory,
    contraction_scale,
    with_downlink,
)
from fedstrategies.objectives import L1, Smoothness
from tests.compressors.enumerate_operators import identity, natural, rand, top

REFERENCE = Smoothness(L=2.6862142339, L_tilde=3.3938773746, L_max=4.0, mu=0.1)
NOTHING_LEFT = Constants(eta=0.0, omega=0.0, second_moment=1.0)


@pytest.mark.parametrize("spec", ["top-k:k=5", "rand-k:k=5", "comp:k=1,k_prime=56", "identity"])
@pytest.mark.parametrize("cohort", [20, 7])
def test_a_downlink_that_leaves_nothing_out_has_the_existing_step(spec: str, cohort: int) -> None:
    plain = theory.efbv(parse_compressor(spec).constants(112), REFERENCE, clients=20, cohort=cohort)
    found = with_downlink(plain, NOTHING_LEFT, REFERENCE)
    assert found.gamma == plain.gamma
    assert found.rate(REFERENCE.mu) == plain.rate(REFERENCE.mu)
    assert found.gradient_weight == plain.gamma / (2 * plain.theta)
    assert (found.model_weight, found.downlink_s) == (0.0, inf)


ROUNDING = min(30 / 4**2, sqrt(30) / 4)
"""omega of qsgd with 4 levels in 30 dimensions."""


@pytest.mark.parametrize("cohort", [7, 3])
@pytest.mark.parametrize(
    ("spec", "scale", "p", "moment"),
    [
        ("top-k:k=6", 1.0, 1 - 6 / 30, 1.0),
        ("natural", 1.0, 1 / 8, 9 / 8),
        ("rand-k:k=6", 6 / 30, 1 - 6 / 30, 6 / 30),
        ("qsgd:levels=4", 1 / (1 + ROUNDING), ROUNDING / (1 + ROUNDING), 1 / (1 + ROUNDING)),
    ],
)
def test_the_step_and_the_weights_solve_the_three_conditions(
    spec: str, scale: float, p: float, moment: float, cohort: int
) -> None:
    plain = theory.efbv(RandK(k=5).constants(30), REFERENCE, clients=7, cohort=cohort)
    found = with_downlink(plain, parse_compressor(spec).constants(30), REFERENCE)
    assert found.downlink_scale == pytest.approx(scale, rel=1e-12)
    assert found.downlink_error == pytest.approx(p, rel=1e-12)
    assert found.downlink_moment == pytest.approx(moment, rel=1e-12)
    # From here on everything is written out of the page, by its letters.
    L, L_tilde, r, r_av = REFERENCE.L, REFERENCE.L_tilde, plain.r, plain.r_av
    s, sigma = sqrt((1 + r) / (2 * r)) - 1, sqrt((1 + p) / (2 * p)) - 1
    X, Y = (1 + 1 / sigma) * sqrt(moment) * L_tilde * sqrt(r_av / r) / s, L / sigma
    gamma, split = 1 / (L + X + Y), Y / X
    A = (1 + split) * gamma * r_av / (2 * s * (1 + s) * r)
    moved = (1 + 1 / s) * L_tilde**2 * moment
    B = gamma / 2 * (1 + 1 / split) * L**2 + A * moved * (1 + sigma)
    B /= sigma * (1 + sigma) * p
    assert found.downlink_s == pytest.approx(sigma, rel=1e-12)
    assert found.gamma == pytest.approx(gamma, rel=1e-12)
    assert found.gradient_weight == pytest.approx(A, rel=1e-12)
    assert found.model_weight == pytest.approx(B, rel=1e-12)
    # The three lines of the page, at what was found.
    gamma, A, B = found.gamma, found.gradient_weight, found.model_weight
    K = A * moved + B * p
    memory = gamma / 2 * (1 + split) * r_av + A * (1 + s) * r
    assert memory == pytest.approx(A * (1 + r) / 2, rel=1e-12)
    model = gamma / 2 * (1 + 1 / split) * L**2 + K * (1 + sigma)
    assert model == pytest.approx(B * (1 + p) / 2, rel=1e-12)
    assert K * (1 + 1 / sigma) + L / 2 - 1 / (2 * gamma) <= 0


def test_w_moves_no_further_than_what_is_left_allows() -> None:
    # What is known of C(y) itself may say less than the triangle: ||y|| + ||C(y) - y||.
    plain = theory.gradient_descent(Identity().constants(30), REFERENCE, clients=7)
    loose = Constants(eta=0.5, omega=0.0, second_moment=100.0)
    assert with_downlink(plain, loose, REFERENCE).downlink_moment == pytest.approx(1.5**2)


def test_with_exact_gradients_only_the_downlink_counts() -> None:
    plain = theory.gradient_descent(Identity().constants(30), REFERENCE, clients=7)
    found = with_downlink(plain, TopK(k=3).constants(30), REFERENCE)
    sigma = sqrt((1 + 0.9) / (2 * 0.9)) - 1
    assert found.gamma == pytest.approx(sigma / (1 + sigma) / REFERENCE.L, rel=1e-12)
    assert found.gradient_weight == 0.0
    assert found.rate(0.0) == 1.0
    assert found.rate(REFERENCE.mu) == 1 - found.gamma * REFERENCE.mu
    # The downlink decides where it is slower than the descent.
    assert replace(found, gamma=1.0).rate(0.5) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("spec", "scale", "error"),
    [
        ("top-k:k=3", 1.0, 0.75),
        ("rand-k:k=3", 0.25, 0.75),
        ("scaled-rand-k:k=3", 1.0, 0.75),
        ("natural", 1.0, 1 / 8),
        ("top-k:k=4+natural", 1.0, 1 - 7 / 8 * 4 / 12),
    ],
)
def test_what_is_no_contraction_is_scaled_to_one(spec: str, scale: float, error: float) -> None:
    operator = parse_compressor(spec).constants(12)
    assert contraction_scale(operator) == pytest.approx(scale)
    plain = theory.gradient_descent(Identity().constants(12), REFERENCE, clients=3)
    found = with_downlink(plain, operator, REFERENCE)
    assert found.downlink_error == pytest.approx(error)
    assert found.downlink_moment <= (1 + sqrt(error)) ** 2 + 1e-12


def test_what_cannot_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of this compressor is a contraction"):
        contraction_scale(Constants(eta=1.0, omega=0.5, second_moment=2.0))


def test_settings_without_a_theory_ask_for_a_number() -> None:
    for method in (EFBV, EF21):
        with pytest.raises(ValueError, match=r"no theory for a compressed downlink with a regul"):
            method(compressor=TopK(k=2), smoothness=REFERENCE, prox=L1(0.1), downlink=TopK(k=2))
    strategy = EFBV(
        compressor=TopK(k=2),
        smoothness=REFERENCE,
        prox=L1(0.1),
        downlink=RandK(k=3),
        stepsize=0.1,
    )
    strategy.num_clients = 4
    strategy.prepare(torch.zeros(12, dtype=torch.float64))
    assert strategy.gamma == 0.1
    assert strategy.constants["downlink_scale"] == pytest.approx(0.25)
    assert "gamma" not in strategy.constants


@pytest.mark.parametrize("method", [EFBV, EF21, DIANA, GradientDescent])
def test_every_member_of_the_family_takes_the_theory_s_step(method: type[EFBV]) -> None:
    up = {} if method is GradientDescent else {"compressor": RandK(k=3)}
    strategy = method(smoothness=REFERENCE, downlink=RandK(k=4), **up)
    strategy.num_clients = 5
    strategy.prepare(torch.zeros(12, dtype=torch.float64))
    assert isinstance(strategy.theory, BidirectionalTheory)
    assert strategy.gamma == strategy.theory.gamma == strategy.constants["gamma"]
    assert strategy.downlink_scale == pytest.approx(1 / 3)
    assert 0 < strategy.gamma < 1 / REFERENCE.L
    unknown = method(stepsize=0.1, downlink=RandK(k=4), **up)
    unknown.num_clients = 5
    unknown.prepare(torch.zeros(12, dtype=torch.float64))
    assert not {"gamma", "theta", "model_weight", "gradient_weight"} & {*unknown.constants}
    assert unknown.constants["downlink_error"] == pytest.approx(2 / 3)


N, D = 2, 3


class Quadratics:
    """f_i(x) = (x - c_i)^T A_i (x - c_i)/2 with the constants of their mean."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        basis = [np.linalg.qr(draw.normal(size=(D, D)))[0] for _ in range(N)]
        spectra = 0.4 + 3 * draw.random((N, D))
        self.matrices = np.array(
            [b @ np.diag(s) @ b.T for b, s in zip(basis, spectra, strict=True)]
        )
        self.centres = 2 * draw.normal(size=(N, D))
        mean = self.matrices.mean(axis=0)
        slopes = np.einsum("nij,nj->i", self.matrices, self.centres) / N
        self.solution = np.linalg.solve(mean, slopes)
        values = np.linalg.eigvalsh(mean)
        local = [float(np.linalg.eigvalsh(m).max()) for m in self.matrices]
        self.known = Smoothness(
            L=float(values[-1]),
            L_tilde=float(np.sqrt(np.mean(np.square(local)))),
            L_max=max(local),
            mu=float(values[0]),
        )

    def gradients(self, x: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", self.matrices, x - self.centres)

    def gap(self, x: np.ndarray) -> float:
        y = x - self.solution
        return float(y @ self.matrices.mean(axis=0) @ y / 2)

    def phi(self, found: BidirectionalTheory, x: np.ndarray, w: np.ndarray, h: np.ndarray) -> float:
        drift = float(((self.gradients(w) - h) ** 2).sum(axis=1).mean())
        distance = float(((x - w) ** 2).sum())
        return self.gap(x) + found.gradient_weight * drift + found.model_weight * distance


OPERATORS = {
    "top-k:k=1": (TopK(k=1), top(1)),
    "rand-k:k=1": (RandK(k=1), rand(1)),
    "scaled-rand-k:k=2": (ScaledRandK(k=2), rand(2, scaled=True)),
    "natural": (parse_compressor("natural"), natural),
    "identity": (Identity(), identity),
}


def after(
    problem: Quadratics,
    found: BidirectionalTheory,
    up: object,
    down: object,
    state: tuple[np.ndarray, np.ndarray, np.ndarray],
    cohorts: list[tuple[int, ...]],
) -> float:
    """E Phi after one round from a state (x, w, h_i), over every outcome there is."""
    x, w, h = state
    gradients, total = problem.gradients(w), 0.0
    messages = [list(zip(*up(gradients[i] - h[i]), strict=True)) for i in range(N)]  # type: ignore[operator]
    for cohort in cohorts:
        for outcome in product(*(messages[i] for i in cohort)):
            weight = np.prod([one for one, _ in outcome]) / len(cohorts)
            shifts, mean = h.copy(), np.zeros(D)
            for i, (_, message) in zip(cohort, outcome, strict=True):
                shifts[i] = h[i] + found.memory_step * message
                mean += message / N
            x_new = x - found.gamma * (h.mean(axis=0) + found.gradient_step * mean)
            for chance, difference in zip(*down(x_new - w), strict=True):  # type: ignore[operator]
                w_new = w + found.downlink_scale * difference
                total += weight * chance * problem.phi(found, x_new, w_new, shifts)
    return total


@pytest.mark.parametrize("cohort", [N, 1])
@pytest.mark.parametrize("down", ["top-k:k=1", "rand-k:k=1", "scaled-rand-k:k=2", "natural"])
@pytest.mark.parametrize("up", ["top-k:k=1", "rand-k:k=1", "identity"])
def test_the_exact_expectation_of_phi_contracts_from_any_state(
    up: str, down: str, cohort: int
) -> None:
    operator, outcomes = OPERATORS[up]
    downlink, differences = OPERATORS[down]
    draw = np.random.default_rng(5)
    worst = 0.0
    for seed in range(3):
        problem = Quadratics(seed)
        plain = theory.efbv(operator.constants(D), problem.known, clients=N, cohort=cohort)
        found = with_downlink(plain, downlink.constants(D), problem.known)
        rate = found.rate(problem.known.mu)
        assert rate < 1
        cohorts = [(0, 1)] if cohort == N else [(0,), (1,)]
        for trial in range(12):
            # From near and far, with each of the three parts of Phi in turn the largest.
            x = problem.solution + draw.normal(size=D) * 10.0 ** (trial % 3 - 1)
            w = x + draw.normal(size=D) * 10.0 ** ((trial // 3) % 3 - 1)
            h = problem.gradients(w) + draw.normal(size=(N, D)) * 10.0 ** (trial % 4 - 2)
            before = problem.phi(found, x, w, h)
            ratio = after(problem, found, outcomes, differences, (x, w, h), cohorts) / before
            assert ratio <= rate * (1 + 1e-9)
            worst = max(worst, ratio)
    # Some state is hard: the bound is no empty one.
    assert worst > 0.3


def test_a_larger_step_than_the_theory_s_breaks_the_contraction_somewhere() -> None:
    problem = Quadratics(0)
    plain = theory.gradient_descent(Identity().constants(D), problem.known, clients=N)
    found = with_downlink(plain, TopK(k=1).constants(D), problem.known)
    bold = replace(found, gamma=40 * found.gamma)
    x = problem.solution + 1.0
    w, h = x + 0.3, problem.gradients(x + 0.3)
    run = [after(problem, t, identity, top(1), (x, w, h), [(0, 1)]) for t in (found, bold)]
    assert run[0] < problem.phi(found, x, w, h) < run[1]


def test_the_compressors_here_are_those_of_the_package() -> None:
    compressors: list[Compressor] = [operator for operator, _ in OPERATORS.values()]
    assert [compressor.spec for compressor in compressors] == list(OPERATORS)
