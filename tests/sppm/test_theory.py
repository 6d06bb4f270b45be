"""The bound of SPPM-AS, exactly by enumeration for one step and over draws for many."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fedstrategies.sampling import FullParticipation, NiceSampling, Sampling
from fedstrategies.sppm.theory import Theory, sppm
from tests.sppm.problem import CLIENTS, LAWS, Quadratics

P = Quadratics()
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
gammas = pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0, 1000.0])


def theory_of(law: Sampling) -> Theory:
    return sppm(law, mu_i=P.mu_i, gradients=P.gradients)


def starts(count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(7)
    scales = torch.logspace(-2, 1, count).double().unsqueeze(1)
    return P.minimiser + scales * torch.randn(count, 4, generator=draw).double()


@laws
@gammas
def test_one_exact_step_stays_under_its_bound(law: Sampling, gamma: float) -> None:
    """``E ||x+ - x*||^2 <= (||x - x*||^2 + gamma^2 sigma^2)/(1 + gamma mu)^2``, enumerated."""
    theory = theory_of(law)
    assert theory.sigma_sq is not None
    for x in starts(6):
        expected = sum(
            probability * float((P.prox(x, law, members, gamma) - P.minimiser).square().sum())
            for probability, members in law.outcomes(CLIENTS)
        )
        distance_sq = float((x - P.minimiser).square().sum())
        assert expected <= theory.rate(gamma) * (distance_sq + gamma**2 * theory.sigma_sq)


@cache
def cohorts(law: Sampling, seed: int, steps: int) -> tuple[torch.Tensor, ...]:
    """They do not depend on the step size."""
    return tuple(law.draw(CLIENTS, seed=seed, round=step) for step in range(1, steps + 1))


@laws
@gammas
def test_many_steps_stay_under_the_bound(law: Sampling, gamma: float) -> None:
    """The mean over 100 runs, at every one of 25 steps."""
    theory, runs, x0 = theory_of(law), 100, starts(6)[-1]
    first = float((x0 - P.minimiser).square().sum())
    total = torch.zeros(26).double()
    proxes: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}
    for seed in range(runs):
        x = x0
        for step, members in enumerate(cohorts(law, seed, 25), start=1):
            key = tuple(members.tolist())
            if key not in proxes:  # the prox of a quadratic is affine: A x + b
                zero = torch.zeros(4).double()
                b = P.prox(zero, law, members, gamma)
                columns = [P.prox(e, law, members, gamma) - b for e in torch.eye(4).double()]
                proxes[key] = torch.stack(columns, dim=1), b
            matrix, b = proxes[key]
            x = matrix @ x + b
            total[step] += float((x - P.minimiser).square().sum())
    for step in range(1, 26):
        # Squares of rounding errors are all that is left of a linear rate.
        assert float(total[step]) / runs <= theory.bound(gamma, step, first) + 1e-26


def test_full_participation_is_linear_for_any_stepsize() -> None:
    law = FullParticipation()
    theory, everyone = theory_of(law), torch.arange(CLIENTS)
    for gamma in (0.1, 1.0, 1000.0):
        x = starts(6)[-1]
        first = float((x - P.minimiser).square().sum())
        for step in range(1, 20):
            x = P.prox(x, law, everyone, gamma)
            distance_sq = float((x - P.minimiser).square().sum())
            assert distance_sq <= theory.rate(gamma) ** step * first * (1 + 1e-9) + 1e-26


@laws
@pytest.mark.parametrize("accuracy", [1.0, 0.1, 1e-2])
def test_the_stated_number_of_steps_suffices_in_the_bound(law: Sampling, accuracy: float) -> None:
    theory = theory_of(law)
    if theory.sigma_sq == 0.0:
        assert theory.stepsize(accuracy) == float("inf")
        assert theory.bound(float("1e18"), 1, 100.0) < accuracy
        return
    gamma, distance_sq = theory.stepsize(accuracy), 37.0
    assert theory.neighbourhood(gamma) <= accuracy / 2
    assert theory.bound(gamma, theory.steps(accuracy, distance_sq), distance_sq) <= accuracy


def test_the_stated_number_of_steps_reaches_the_accuracy() -> None:
    law, accuracy = NiceSampling(cohort_size=3), 2.0
    theory, x0 = theory_of(law), starts(6)[-1]
    distance_sq = float((x0 - P.minimiser).square().sum())
    gamma, steps = theory.stepsize(accuracy), theory.steps(accuracy, distance_sq)
    runs, total = 20, 0.0
    for seed in range(runs):
        x = x0
        for step in range(steps):
            x = P.prox(x, law, law.draw(CLIENTS, seed=seed, round=step), gamma)
        total += float((x - P.minimiser).square().sum())
    assert total / runs <= accuracy


def test_a_large_stepsize_ends_at_the_floor() -> None:
    theory = theory_of(LAWS["nice"])
    assert theory.sigma_sq is not None
    floor = theory.sigma_sq / theory.mu**2
    assert theory.neighbourhood(1e9) == pytest.approx(floor, rel=1e-6)
    assert theory.neighbourhood(1.0) < floor


def test_what_is_not_known_is_said() -> None:
    unknown = sppm(LAWS["nice"], mu_i=P.mu_i)
    with pytest.raises(ValueError, match="sigma\\^2 at the solution is not known"):
        unknown.neighbourhood(1.0)
    with pytest.raises(ValueError, match="no linear rate"):
        Theory(mu=0.0, sigma_sq=1.0).stepsize(0.1)
