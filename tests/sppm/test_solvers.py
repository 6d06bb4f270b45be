"""Every inner solver against the closed form of the prox of a quadratic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedstrategies.objectives import L1, Box, NoProx, SquaredL2
from fedstrategies.sppm import (
    LBFGS,
    AdamSolver,
    ConjugateGradient,
    InnerSolver,
    InnerState,
    LocalGDSolver,
    ProxGD,
    ProxProblem,
    parse_solver,
    prox_of_quadratic,
    prox_problem,
)
from fedstrategies.sppm.line_search import LineSearch

D = 6
SMOOTH = [ProxGD(), ConjugateGradient(), LBFGS(), LBFGS(memory=2)]


class Cohort:
    """f_C(z) = z^T H z/2 - b^T z with a spectrum from 0.1 to 20."""

    def __init__(self, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(D, D, generator=draw).double())[0]
        spectrum = torch.logspace(-1, 1.3, D).double()
        self.hessian = basis @ torch.diag(spectrum) @ basis.T
        self.linear = torch.randn(D, generator=draw).double()
        self.smoothness = float(spectrum.max())
        self.x = torch.randn(D, generator=draw).double()

    def problem(self, gamma: float, prox: L1 | Box | SquaredL2 | None = None) -> ProxProblem:
        return prox_problem(
            self.x,
            gamma=gamma,
            prox=prox or NoProx(),
            smoothness=self.smoothness,
            weight=1.0,
        )

    def gradient(self, z: Tensor) -> Tensor:
        return self.hessian @ z - self.linear

    def exact(self, gamma: float) -> Tensor:
        return prox_of_quadratic(self.x, hessian=self.hessian, linear=self.linear, gamma=gamma)

    def run(self, solver: InnerSolver, problem: ProxProblem, exchanges: int) -> InnerState:
        solver.check(problem)
        state = solver.start(problem, self.x)
        for _ in range(exchanges):
            state = solver.advance(problem, state, self.gradient(state.point))
        return state


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0, 1000.0])
def test_the_closed_form_solves_the_prox_problem(gamma: float) -> None:
    cohort = Cohort()
    z = cohort.exact(gamma)
    stationary = cohort.problem(gamma).gradient(z, cohort.gradient(z))
    assert torch.linalg.vector_norm(stationary) < 1e-12


@pytest.mark.parametrize("solver", SMOOTH, ids=lambda s: s.spec)
@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0, 1000.0])
def test_many_exchanges_reach_the_prox(solver: InnerSolver, gamma: float) -> None:
    cohort = Cohort()
    exchanges = 6000 if isinstance(solver, ProxGD) else 300
    state = cohort.run(solver, cohort.problem(gamma), exchanges)
    torch.testing.assert_close(state.solution, cohort.exact(gamma), rtol=0, atol=1e-10)
    assert state.residual < 1e-10


def test_conjugate_gradients_end_on_a_quadratic_after_d_iterations() -> None:
    """One exchange for the gradient and one an iteration; rounding leaves a little."""
    cohort = Cohort()
    problem = cohort.problem(10.0)
    solver = replace(ConjugateGradient())
    state = solver.start(problem, cohort.x)
    first = cohort.run(solver, problem, 1)
    errors = [float((first.solution - cohort.exact(10.0)).norm())]
    for exchanges in range(2, 4 * D):
        solution = cohort.run(solver, problem, exchanges).solution
        errors.append(float((solution - cohort.exact(10.0)).norm()))
    assert errors[-1] < 1e-10 * errors[0]
    assert state.residual == float("inf")


def test_conjugate_gradients_take_the_steps_of_the_textbook() -> None:
    cohort = Cohort()
    # A gradient with equal parts along all eigenvectors, so that no system is solved early.
    cohort.linear = cohort.hessian @ cohort.x - torch.linalg.eigh(cohort.hessian)[1].sum(dim=1)
    problem = cohort.problem(10.0)
    system = cohort.hessian + problem.curvature * torch.eye(D).double()
    r = -problem.gradient(cohort.x, cohort.gradient(cohort.x))
    z, p = cohort.x, r
    for exchanges in range(2, 5):
        length = (r @ r) / (p @ system @ p)
        z, following = z + length * p, r - length * system @ p
        p, r = following + (following @ following) / (r @ r) * p, following
        found = cohort.run(ConjugateGradient(), problem, exchanges).solution
        torch.testing.assert_close(found, z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 100.0])
def test_gradient_descent_contracts_at_its_rate(gamma: float) -> None:
    cohort = Cohort()
    problem, exact = cohort.problem(gamma), cohort.exact(gamma)
    convexity = 0.1
    rate = 1 - (problem.curvature + convexity) / (problem.curvature + cohort.smoothness)
    state = ProxGD().start(problem, cohort.x)
    for _ in range(30):
        before = float((state.point - exact).norm())
        state = ProxGD().advance(problem, state, cohort.gradient(state.point))
        assert float((state.point - exact).norm()) <= rate * before * (1 + 1e-9)


@pytest.mark.parametrize("solver", SMOOTH, ids=lambda s: s.spec)
def test_the_first_exchange_is_a_gradient_step(solver: InnerSolver) -> None:
    cohort = Cohort()
    problem = cohort.problem(0.5)
    found = cohort.run(solver, problem, 1).solution
    expected = cohort.x - cohort.gradient(cohort.x) / (cohort.smoothness + 2.0)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.3, 30.0])
def test_a_squared_norm_is_folded_into_the_quadratic(gamma: float) -> None:
    cohort, lam = Cohort(), 0.7
    problem = cohort.problem(gamma, SquaredL2(lam))
    assert problem.smooth
    expected = prox_of_quadratic(
        cohort.x,
        hessian=cohort.hessian + lam * torch.eye(D).double(),
        linear=cohort.linear,
        gamma=gamma,
    )
    found = cohort.run(LBFGS(), problem, 80).solution
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prox", [L1(0.4), Box(0.3)], ids=lambda p: p.spec)
def test_proximal_gradient_meets_the_optimality_conditions(prox: L1 | Box) -> None:
    cohort = Cohort()
    problem = cohort.problem(5.0, prox)
    state = cohort.run(ProxGD(), problem, 6000)
    z, step = state.solution, 0.37
    moved = prox.prox(z - step * problem.gradient(z, cohort.gradient(z)), step)
    torch.testing.assert_close(moved, z, rtol=0, atol=1e-11)
    assert not torch.allclose(z, cohort.exact(5.0), atol=1e-2)


@pytest.mark.parametrize(
    "solver",
    [ConjugateGradient(), LBFGS(), AdamSolver(lr=0.1), LocalGDSolver()],
    ids=lambda s: s.spec,
)
def test_solvers_that_follow_gradients_refuse_kinks(solver: InnerSolver) -> None:
    with pytest.raises(ValueError, match="use gd, which takes proximal steps"):
        solver.check(Cohort().problem(1.0, L1(0.1)))


def test_gradient_descent_needs_a_step_size() -> None:
    cohort = Cohort()
    unknown = replace(cohort.problem(1.0), smoothness=None)
    with pytest.raises(ValueError, match="needs L_i for its step size"):
        ProxGD().check(unknown)
    ProxGD(stepsize=0.01).check(unknown)


@pytest.mark.parametrize("solver", SMOOTH[1:], ids=lambda s: s.spec)
def test_curvature_is_learnt_where_nothing_is_known(solver: InnerSolver) -> None:
    cohort = Cohort()
    unknown = replace(cohort.problem(1000.0), smoothness=None)
    found = cohort.run(solver, unknown, 300).solution
    torch.testing.assert_close(found, cohort.exact(1000.0), rtol=0, atol=1e-9)


def test_adam_comes_close() -> None:
    cohort = Cohort()
    state = cohort.run(AdamSolver(lr=0.05), cohort.problem(1.0), 1500)
    torch.testing.assert_close(state.solution, cohort.exact(1.0), rtol=0, atol=1e-3)


class Logistic:
    """A far from quadratic phi: steep logistic losses, c small."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self.rows = 8 * torch.randn(40, D, generator=draw).double()
        self.labels = torch.sign(torch.randn(40, generator=draw).double())

    def gradient(self, z: Tensor) -> Tensor:
        margins = self.labels * (self.rows @ z)
        return -(self.rows * (self.labels * torch.sigmoid(-margins)).unsqueeze(1)).mean(0)


@pytest.mark.parametrize("solver", SMOOTH[1:], ids=lambda s: s.spec)
@pytest.mark.parametrize("gamma", [1.0, 1e3])
@pytest.mark.parametrize("start", [0.0, 5.0])
def test_steep_losses_are_solved_from_near_and_far(
    solver: InnerSolver, gamma: float, start: float
) -> None:
    loss = Logistic()
    x = torch.full((D,), start).double()
    problem = prox_problem(x, gamma=gamma, prox=NoProx(), smoothness=None, weight=1.0)
    state = solver.start(problem, x)
    for _ in range(400):
        state = solver.advance(problem, state, loss.gradient(state.point))
    gradient = problem.gradient(state.solution, loss.gradient(state.solution))
    assert float(gradient.norm()) < 1e-9


def test_a_solver_at_the_solution_stays() -> None:
    for solver in SMOOTH:
        x = torch.zeros(D).double()
        problem = prox_problem(x, gamma=1.0, prox=NoProx(), smoothness=1.0, weight=1.0)
        state = solver.start(problem, x)
        for _ in range(5):
            state = solver.advance(problem, state, torch.zeros(D).double())
        assert torch.equal(state.solution, x)
        assert state.residual == 0.0


@given(
    curvature=st.floats(1e-3, 1e3),
    minimum=st.floats(1e-3, 1e3),
    kink=st.floats(0.0, 50.0),
)
@settings(max_examples=200, deadline=None)
def test_the_line_search_ends(curvature: float, minimum: float, kink: float) -> None:
    """Slopes of a convex function with a jump in curvature, minimum anywhere."""

    def slope(t: float) -> float:
        beyond = max(t - minimum, 0.0)
        return curvature * (t - minimum) + kink * curvature * beyond

    direction = torch.ones(1).double()
    search: LineSearch | None = LineSearch(
        base=torch.zeros(1).double(),
        gradient=torch.tensor([slope(0.0)]).double(),
        direction=direction,
    )
    for _ in range(60):
        assert search is not None
        found = float(search.point)
        search = search.advance(torch.tensor([slope(found)]).double())
        if search is None:
            break
    assert search is None
    assert abs(slope(found)) <= 0.9 * abs(slope(0.0)) * (1 + 1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "gd",
        "gd:stepsize=0.5",
        "cg",
        "lbfgs:memory=3",
        "local-gd:steps=4,stepsize=0.1",
        "adam:lr=0.1",
    ],
)
def test_solvers_are_read_from_text_and_written_back(text: str) -> None:
    solver = parse_solver(text)
    assert parse_solver(solver.spec) == solver


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("newton", "the solvers are gd, cg, lbfgs, local-gd, adam"),
        ("gd:steps=3", "gd knows stepsize, once each"),
        ("cg:memory=3", "cg has no settings"),
        ("lbfgs:memory=2.5", "not a number"),
        ("lbfgs:memory=0", "at least 1"),
        ("gd:stepsize=-1", "not positive"),
        ("local-gd:steps=0", "at least 1"),
        ("adam", "adam needs lr"),
    ],
)
def test_wrong_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_solver(text)
