"""Every law against the enumeration of its cohorts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import sqrt

import pytest
import torch
from torch import Tensor

from fedstrategies.sampling import (
    BlockSampling,
    FullParticipation,
    NiceSampling,
    NonuniformSampling,
    Sampling,
    StratifiedSampling,
)

N, D = 7, 3
GROUPS = ((0, 3), (1, 5, 6), (2,), (4,))
MU = torch.tensor([0.3, 1.0, 0.1, 2.0, 0.7, 0.4, 1.5], dtype=torch.float64)
P = (0.1, 0.3, 0.05, 0.15, 0.2, 0.12, 0.08)
GRADIENTS = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).double() + 0.5

LAWS: dict[str, Sampling] = {
    "full": FullParticipation(),
    "nice 1": NiceSampling(cohort_size=1),
    "nice 3": NiceSampling(cohort_size=3),
    "nice n": NiceSampling(cohort_size=N),
    "nonuniform": NonuniformSampling(probabilities=P),
    "nonuniform for mu": NonuniformSampling.for_strong_convexity(MU),
    "nonuniform for the variance": NonuniformSampling.for_variance(GRADIENTS),
    "block": BlockSampling(blocks=GROUPS),
    "block with q": BlockSampling(blocks=GROUPS, probabilities=(0.1, 0.4, 0.3, 0.2)),
    "block for mu": BlockSampling.for_strong_convexity(GROUPS, MU),
    "block for the variance": BlockSampling.for_variance(GROUPS, GRADIENTS),
    "stratified": StratifiedSampling(strata=GROUPS),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def cohort_gradient(law: Sampling, members: Tensor, rows: Tensor) -> Tensor:
    """grad f_C = sum_{i in C} grad f_i/(n p_i)."""
    weights = 1 / (len(rows) * law.inclusion_probabilities(len(rows)))
    return (weights[members].unsqueeze(1) * rows[members]).sum(dim=0)


def brute_variance(law: Sampling, rows: Tensor) -> float:
    mean = rows.mean(dim=0)
    return sum(
        probability * float((cohort_gradient(law, members, rows) - mean).square().sum())
        for probability, members in law.outcomes(len(rows))
    )


@laws
def test_outcomes_are_a_law(law: Sampling) -> None:
    found = list(law.outcomes(N))
    assert abs(sum(probability for probability, _ in found) - 1) < 1e-12
    assert len({tuple(members.tolist()) for _, members in found}) == len(found)
    assert max(len(members) for _, members in found) == law.size(N)
    included = torch.zeros(N).double()
    for probability, members in found:
        assert bool((members[1:] > members[:-1]).all())
        included[members] += probability
    torch.testing.assert_close(included, law.inclusion_probabilities(N), rtol=0, atol=1e-12)


@laws
def test_the_cohorts_objective_is_unbiased(law: Sampling) -> None:
    mean = torch.zeros(D).double()
    for probability, members in law.outcomes(N):
        mean += probability * cohort_gradient(law, members, GRADIENTS)
    torch.testing.assert_close(mean, GRADIENTS.mean(dim=0), rtol=0, atol=1e-12)


@laws
def test_strong_convexity_is_the_smallest_over_cohorts(law: Sampling) -> None:
    column = MU.unsqueeze(1)
    brute = min(float(cohort_gradient(law, members, column)) for _, members in law.outcomes(N))
    assert law.strong_convexity(MU) == pytest.approx(brute, rel=1e-12)


@laws
def test_variance_is_that_of_the_enumeration(law: Sampling) -> None:
    assert law.variance(GRADIENTS) == pytest.approx(
        brute_variance(law, GRADIENTS), rel=1e-12, abs=1e-15
    )


@laws
def test_draws_follow_the_law(law: Sampling) -> None:
    expected = {tuple(members.tolist()): p for p, members in law.outcomes(N)}
    count = 4000
    seen: dict[tuple[int, ...], int] = {}
    for round in range(count):
        cohort = tuple(law.draw(N, seed=5, round=round).tolist())
        seen[cohort] = seen.get(cohort, 0) + 1
    assert set(seen) <= set(expected)
    for cohort, p in expected.items():
        # Five standard deviations.
        assert abs(seen.get(cohort, 0) / count - p) <= 5 * sqrt(p * (1 - p) / count) + 1e-12


@laws
def test_a_draw_is_a_function_of_seed_and_round(law: Sampling) -> None:
    draws = [law.draw(N, seed=3, round=round).tolist() for round in range(40)]
    assert draws == [law.draw(N, seed=3, round=round).tolist() for round in range(40)]
    if len(list(law.outcomes(N))) > 1:
        assert draws != [law.draw(N, seed=4, round=round).tolist() for round in range(40)]


def test_nice_draws_stay_what_they_are() -> None:
    few, many = NiceSampling(cohort_size=3), NiceSampling(cohort_size=5)
    assert [few.draw(10, seed=0, round=t).tolist() for t in (1, 2, 3)] == [
        [3, 6, 7],
        [6, 7, 8],
        [1, 4, 7],
    ]
    assert many.draw(100_000, seed=7, round=1).tolist() == [1891, 12471, 70774, 71192, 84267]


@laws
def test_constants_are_computed_in_float64(law: Sampling) -> None:
    # A mean of 1,000 leaves float32 three digits for the differences.
    rows = (1000 + GRADIENTS).to(torch.float32)
    assert law.variance(rows) == pytest.approx(law.variance(rows.double()), rel=1e-12)
    mu = MU.to(torch.float32)
    assert law.strong_convexity(mu) == pytest.approx(law.strong_convexity(mu.double()), rel=1e-12)


def same_law(one: Sampling, other: Sampling) -> bool:
    def table(law: Sampling) -> dict[tuple[int, ...], float]:
        return {tuple(members.tolist()): probability for probability, members in law.outcomes(N)}

    return table(one) == pytest.approx(table(other))


def test_corner_laws_are_the_same_law() -> None:
    singletons = tuple((i,) for i in range(N))
    everyone = (tuple(range(N)),)
    full = FullParticipation()
    assert same_law(NiceSampling(cohort_size=N), full)
    assert same_law(BlockSampling(blocks=everyone), full)
    assert same_law(StratifiedSampling(strata=singletons), full)
    assert same_law(
        BlockSampling(blocks=singletons, probabilities=P), NonuniformSampling(probabilities=P)
    )
    assert same_law(StratifiedSampling(strata=everyone), NonuniformSampling.uniform(N))
    assert same_law(NiceSampling(cohort_size=1), NonuniformSampling.uniform(N))


def balanced_partitions(clients: int, groups: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    size, seen = clients // groups, set()
    for order in permutations(range(clients)):
        found = tuple(
            sorted(tuple(sorted(order[j * size : (j + 1) * size])) for j in range(groups))
        )
        if found not in seen:
            seen.add(found)
            yield found


@pytest.mark.parametrize(("clients", "groups"), [(6, 3), (6, 2), (8, 4)])
def test_the_best_balanced_strata_are_never_worse_than_nice_sampling(
    clients: int, groups: int
) -> None:
    draw = torch.Generator().manual_seed(clients + groups)
    for _ in range(3):
        rows = torch.randn(clients, D, generator=draw).double()
        nice = NiceSampling(cohort_size=groups).variance(rows)
        found = [
            StratifiedSampling(strata=strata).variance(rows)
            for strata in balanced_partitions(clients, groups)
        ]
        assert sum(found) / len(found) == pytest.approx(nice, rel=1e-12)
        assert min(found) <= nice
        assert max(found) >= nice


def test_the_optimal_probabilities_are_optimal() -> None:
    draw = torch.Generator().manual_seed(2)
    for_mu = NonuniformSampling.for_strong_convexity(MU).strong_convexity(MU)
    for_variance = NonuniformSampling.for_variance(GRADIENTS).variance(GRADIENTS)
    for _ in range(50):
        p = torch.rand(N, generator=draw).double() + 0.01
        other = NonuniformSampling(probabilities=tuple((p / p.sum()).tolist()))
        assert other.strong_convexity(MU) <= for_mu * (1 + 1e-12)
        assert other.variance(GRADIENTS) >= for_variance * (1 - 1e-12)


def test_the_optimal_block_probabilities_are_optimal() -> None:
    draw = torch.Generator().manual_seed(3)
    for_mu = BlockSampling.for_strong_convexity(GROUPS, MU).strong_convexity(MU)
    for_variance = BlockSampling.for_variance(GROUPS, GRADIENTS).variance(GRADIENTS)
    for _ in range(50):
        q = torch.rand(len(GROUPS), generator=draw).double() + 0.01
        other = BlockSampling(blocks=GROUPS, probabilities=tuple((q / q.sum()).tolist()))
        assert other.strong_convexity(MU) <= for_mu * (1 + 1e-12)
        assert other.variance(GRADIENTS) >= for_variance * (1 - 1e-12)


def test_a_client_with_gradient_zero_keeps_a_chance() -> None:
    rows = GRADIENTS.clone()
    rows[2] = 0
    law = NonuniformSampling.for_variance(rows)
    assert 0 < law.probabilities[2] < 1e-6


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: NonuniformSampling(probabilities=(0.5, 0.6)), "sum to 1.1, not to 1"),
        (lambda: NonuniformSampling(probabilities=(1.0, 0.0)), "every client needs a chance"),
        (lambda: BlockSampling(blocks=((0, 1), (1, 2))), "client 1 is in two"),
        (lambda: BlockSampling(blocks=((0,), (2,))), "a client is missing"),
        (lambda: BlockSampling(blocks=((0,), (1,)), probabilities=(1.0,)), "1 probabilities for 2"),
        (lambda: StratifiedSampling(strata=((0,), ())), "every group needs a client"),
        (lambda: StratifiedSampling(strata=()), "there must be a group"),
        (lambda: NiceSampling(cohort_size=0), "at least 1"),
        (lambda: NonuniformSampling.for_strong_convexity(torch.zeros(3)), "not all zero"),
        (lambda: BlockSampling.for_strong_convexity(GROUPS, MU[:5]), "for 7 clients, there are 5"),
        (lambda: BlockSampling.for_variance(GROUPS, GRADIENTS[:5]), "for 7 clients, there are 5"),
    ],
)
def test_impossible_laws_are_refused(make: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["nonuniform", "block", "stratified"])
def test_a_law_is_for_as_many_clients_as_it_says(name: str) -> None:
    law = LAWS[name]
    for use in (
        lambda: law.size(N + 1),
        lambda: law.draw(N + 1, seed=0, round=1),
        lambda: law.inclusion_probabilities(N + 1),
        lambda: list(law.outcomes(N + 1)),
        lambda: law.strong_convexity(torch.ones(N + 1)),
        lambda: law.variance(torch.ones(N + 1, D)),
    ):
        with pytest.raises(ValueError, match=f"is for {N} clients, there are {N + 1}"):
            use()
