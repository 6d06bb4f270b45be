import pytest
import torch

from fedstrategies.objectives import (
    LastPoint,
    LogisticRegression,
    LoopedObjectives,
    NoProx,
    SolveError,
    minimise,
    parse_prox,
)
from fedstrategies.objectives.logistic_hessian import mean_logistic_hessian
from fedstrategies.objectives.smoothness import logistic_smoothness
from tests.objectives.clients import normal, random_client


@pytest.fixture(scope="module")
def small():
    sizes = (12, 30, 7, 25)
    return LogisticRegression.stack(
        [random_client(m, 6, seed=s, l2=0.02 * (s + 1)) for s, m in enumerate(sizes)]
    )


def test_reference_minimum_of_mushrooms_by_two_methods(mushrooms_clients):
    clients = mushrooms_clients(20)
    newton = minimise(LastPoint(LogisticRegression.stack(clients)))
    assert newton.value == pytest.approx(0.34426197, abs=5e-9)
    assert newton.value == pytest.approx(0.344261972120588, abs=1e-14)
    assert newton.residual <= 1e-11
    first_order = minimise(LoopedObjectives(clients), smoothness=2.6864126834)
    assert first_order.steps > 20 > newton.steps
    assert first_order.value == pytest.approx(newton.value, abs=1e-14)
    torch.testing.assert_close(first_order.x, newton.x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spec", ["none", "l2sq:0.3", "l1:0.05", "box:0.4"])
def test_optimality_conditions(small, spec):
    regulariser = parse_prox(spec)
    found = minimise(small, regulariser)
    values, gradients = small.value_and_gradient(found.x)
    gradient = gradients.mean(dim=0)
    assert found.residual <= 1e-11
    assert found.value == pytest.approx(
        float(values.mean()) + regulariser.value(found.x), abs=1e-15
    )
    # x* is a fixed point of the prox-gradient step for every step size.
    for step in (0.01, 1.0, 10.0):
        moved = regulariser.prox(found.x - step * gradient, step)
        torch.testing.assert_close(moved, found.x, rtol=0, atol=1e-9)
    for seed in range(20):
        other = regulariser.prox(found.x + 0.1 * normal(6, seed=seed), 1e-9)
        value = float(small.values(other).mean()) + regulariser.value(other)
        assert value > found.value


def test_l1_gives_exact_zeros_and_box_touches_its_walls(small):
    assert (minimise(small, parse_prox("l1:0.05")).x == 0).any()
    assert (minimise(small, parse_prox("box:0.1")).x.abs() == 0.1).any()


def test_start_point_does_not_matter(small):
    expected = minimise(small)
    for seed, scale in ((1, 1.0), (2, 30.0)):
        start = scale * normal(6, seed=seed)
        kept = start.clone()
        found = minimise(small, NoProx(), x0=start)
        torch.testing.assert_close(found.x, expected.x, rtol=0, atol=1e-9)
        assert torch.equal(start, kept)


def test_hessian_is_the_derivative_of_the_gradient(small):
    x, step = normal(6, seed=9), 1e-5
    hessian = mean_logistic_hessian(small, x)
    for axis, along in enumerate(step * torch.eye(6, dtype=torch.float64)):
        ahead, behind = (small.value_and_gradient(x + s * along)[1].mean(dim=0) for s in (1, -1))
        torch.testing.assert_close((ahead - behind) / (2 * step), hessian[axis], rtol=0, atol=1e-9)
    at_zero = mean_logistic_hessian(small, torch.zeros(6, dtype=torch.float64))
    top = float(torch.linalg.eigvalsh(at_zero)[-1])
    assert top == pytest.approx(logistic_smoothness(small).L, rel=1e-13)


def test_a_singular_hessian_is_no_obstacle():
    """A feature that is always zero leaves its weight undetermined; the rest is solved."""
    features = normal(40, 4, seed=4)
    features[:, 2] = 0.0
    labels = normal(40, seed=5).sign()
    found = minimise(
        LogisticRegression.stack([LogisticRegression(features=features, labels=labels)])
    )
    assert found.residual <= 1e-11
    assert found.x[2] == 0


def test_failures_say_how_far_the_solver_came(small):
    with pytest.raises(SolveError, match=r"residual .* raise the tolerance"):
        minimise(small, tolerance=1e-30)
    with pytest.raises(ValueError, match="state L"):
        minimise(LoopedObjectives([random_client(3, 2, seed=0)]))
