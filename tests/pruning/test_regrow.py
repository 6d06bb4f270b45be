"""DSnoT against a loop over one row, R2-DSnoT's ingredients, and what swaps may never change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedstrategies.pruning import (
    ActivationStatistics,
    Pattern,
    Regrowing,
    Regrown,
    SemiStructured,
    Unstructured,
    Wanda,
    regrow,
    relative_importance,
)
from tests.pruning.reference_dsnot import dsnot_row

PATTERNS = (Unstructured(sparsity=0.5), Unstructured(sparsity=0.7), SemiStructured())
BY_PATTERN = pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.spec)


def problem(seed: int, *, outputs: int = 6, inputs: int = 16) -> tuple[Tensor, Tensor]:
    """A weight, and activations whose means are not zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, dtype=torch.float64, generator=generator)
    means = torch.randn(inputs, dtype=torch.float64, generator=generator)
    spread = torch.rand(inputs, dtype=torch.float64, generator=generator) + 0.1
    noise = torch.randn(3, 5, inputs, dtype=torch.float64, generator=generator)
    return weight, means + spread * noise


def regrown(seed: int, pattern: Pattern, how: Regrowing) -> tuple[Tensor, Regrown]:
    """The mask before, and what came of it."""
    weight, activations = problem(seed)
    statistics = ActivationStatistics.of(activations, weight, samples=3)
    mask = pattern.mask(Wanda().scores(weight, name="", statistics=statistics))
    return mask, regrow(weight, mask, statistics=statistics, pattern=pattern, settings=how)


seeds = st.integers(0, 2**32 - 1)
ingredients = st.builds(
    Regrowing,
    cycles=st.sampled_from([None, 3, 50]),
    same_sign=st.booleans(),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
    reweigh=st.sampled_from(["none", "grow", "prune"]),
    gamma_grow=st.sampled_from([0.0, 1e-3, 10.0]),
    gamma_prune=st.sampled_from([0.0, 1e-3, 10.0]),
    threshold=st.sampled_from([0.0, 0.1]),
    p=st.sampled_from([1.0, 2.0]),
)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    pattern=st.sampled_from(PATTERNS),
    same_sign=st.booleans(),
    threshold=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_with_its_ingredients_off_it_is_dsnot(
    seed: int, pattern: Pattern, same_sign: bool, threshold: float
) -> None:
    plain = Regrowing.r2(reweigh="none", exponent=1.0, gamma_grow=0.0, gamma_prune=0.0)
    assert plain == Regrowing()
    how = Regrowing(cycles=50, same_sign=same_sign, threshold=threshold)
    before, done = regrown(seed, pattern, how)
    weight, activations = problem(seed)
    tokens = activations.reshape(-1, weight.shape[1])
    for row in range(len(weight)):
        expected, error = dsnot_row(
            (weight[row] * tokens.sum(0) / 3).tolist(),
            tokens.var(0, unbiased=False).tolist(),
            (weight[row].abs() * (tokens.square().sum(0) / 3).sqrt()).tolist(),
            before[row].tolist(),
            same_sign=same_sign,
            threshold=threshold,
            group=4 if isinstance(pattern, SemiStructured) else None,
        )
        assert done.mask[row].tolist() == expected
        assert float(done.error[row]) == pytest.approx(error, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, pattern=st.sampled_from(PATTERNS), how=ingredients)
def test_swaps_keep_the_numbers_of_zeros(seed: int, pattern: Pattern, how: Regrowing) -> None:
    before, done = regrown(seed, pattern, how)
    assert torch.equal(done.mask.sum(1), before.sum(1))
    if isinstance(pattern, SemiStructured):
        assert done.mask.view(-1, pattern.of).sum(1).unique().tolist() == [pattern.kept]
    # Nothing is swapped twice.
    assert torch.equal((done.mask != before).sum(1), 2 * done.swaps)
    assert int(done.swaps.max()) <= how.most_swaps(before.shape[1])


@settings(max_examples=60, deadline=None)
@given(seed=seeds, pattern=st.sampled_from(PATTERNS[:2]), how=ingredients)
def test_the_error_is_what_was_pruned_and_does_not_grow(
    seed: int, pattern: Pattern, how: Regrowing
) -> None:
    how = replace(how, same_sign=True, gamma_grow=0.0, gamma_prune=0.0)
    before, done = regrown(seed, pattern, how)
    weight, activations = problem(seed)
    gains = weight * activations.reshape(-1, weight.shape[1]).sum(0) / 3
    torch.testing.assert_close(done.error_before, (gains * ~before).sum(1))
    torch.testing.assert_close(done.error, (gains * ~done.mask).sum(1), rtol=0, atol=1e-10)
    assert bool((done.error.abs() <= done.error_before.abs() + 1e-12).all())
    assert torch.equal(done.error.sign(), done.error_before.sign())
    assert bool((done.error.abs() < done.error_before.abs())[done.swaps > 0].all())


def test_of_wide_rows_the_mean_output_comes_closer_to_the_dense_one() -> None:
    # A swap moves epsilon by far more than a threshold in a row of 16, and by less in one of 400.
    weight, activations = problem(1, outputs=100, inputs=400)
    statistics = ActivationStatistics.of(activations, weight, samples=3)
    before = PATTERNS[1].mask(Wanda().scores(weight, name="", statistics=statistics))
    how = Regrowing(cycles=50)
    done = regrow(weight, before, statistics=statistics, pattern=PATTERNS[1], settings=how)
    mean = activations.reshape(-1, 400).mean(0)
    shifts = (weight * ~done.mask @ mean).abs() / (weight * ~before @ mean).abs()
    assert float((shifts < 1).double().mean()) > 0.9
    assert float(shifts.median()) < 0.5


def test_shorter_rows_may_make_the_same_share_of_swaps() -> None:
    assert [Regrowing().most_swaps(n) for n in (1, 64, 82, 172, 2048, 4096, 11008)] == [
        *(1, 1, 2, 3, 25, 50, 50)
    ]
    assert Regrowing(cycles=7).most_swaps(64) == 7
    swaps = [regrown(seed, PATTERNS[0], Regrowing(threshold=0.0))[1].swaps for seed in range(20)]
    assert int(torch.stack(swaps).max()) == 1


def test_of_n_m_a_row_stops_before_its_error_changes_its_sign() -> None:
    stopped = 0
    for seed in range(30):
        _, done = regrown(seed, PATTERNS[2], Regrowing(cycles=50))
        assert torch.equal(done.error.sign(), done.error_before.sign())
        stopped += int((done.swaps < 4).sum())
    assert stopped > 0


@BY_PATTERN
def test_each_ingredient_changes_masks(pattern: Pattern) -> None:
    def masks(how: Regrowing) -> Tensor:
        how = replace(how, cycles=50)
        return torch.stack([regrown(seed, pattern, how)[1].mask for seed in range(30)])

    plain = masks(Regrowing())
    for how in (
        Regrowing(reweigh="grow"),
        Regrowing(reweigh="prune"),
        Regrowing(exponent=0.5),
        Regrowing(gamma_grow=10.0),
    ):
        assert not torch.equal(masks(how), plain), how
    wider = masks(Regrowing(gamma_prune=10.0))
    # Of n:m a weight of any sign may go, so that there is no boundary to move.
    assert torch.equal(wider, plain) == isinstance(pattern, SemiStructured)


def test_reweighing_is_by_relative_importance() -> None:
    weight, activations = problem(3)
    statistics = ActivationStatistics.of(activations, weight, samples=3)
    mask = PATTERNS[0].mask(Wanda().scores(weight, name="", statistics=statistics))
    how = Regrowing(reweigh="prune", exponent=0.0, cycles=1)
    done = regrow(weight, mask, statistics=statistics, pattern=PATTERNS[0], settings=how)
    gains = weight * statistics.input_totals
    importance = relative_importance(weight)
    for row in range(len(weight)):
        if done.swaps[row]:
            sign = done.error_before[row].sign()
            candidates = mask[row] & (sign * gains[row] < 0)
            expected = importance[row].masked_fill(~candidates, float("inf")).argmin()
            gone = mask[row] & ~done.mask[row]
            assert gone.nonzero().flatten().tolist() == [int(expected)]
    assert int(done.swaps.sum()) > 0


@pytest.mark.parametrize("how", [Regrowing(), Regrowing.r2(), Regrowing.r2(reweigh="prune")])
def test_zeros_and_constant_inputs_are_safe(how: Regrowing) -> None:
    weight, activations = problem(0)
    weight[1], weight[:, 2] = 0.0, 0.0
    activations[..., 3], activations[..., 4] = 0.0, 1.5
    statistics = ActivationStatistics.of(activations, weight, samples=3)
    mask = PATTERNS[0].mask(Wanda().scores(weight, name="", statistics=statistics))
    done = regrow(weight, mask, statistics=statistics, pattern=PATTERNS[0], settings=how)
    assert bool(torch.isfinite(done.error).all())
    assert torch.equal(done.mask.sum(1), mask.sum(1))
    assert torch.equal(done.mask[1], mask[1])


def test_what_does_not_fit_is_refused() -> None:
    weight, activations = problem(0)
    statistics = ActivationStatistics.of(activations, weight)
    with pytest.raises(ValueError, match="with a mask of"):
        regrow(weight, weight[1:] > 0, statistics=statistics, pattern=PATTERNS[0])
    for wrong in (
        {"threshold": -1.0},
        {"cycles": -1},
        {"p": 0.5},
        {"exponent": float("nan")},
        {"reweigh": "both"},
    ):
        with pytest.raises(ValueError, match="="):
            Regrowing(**wrong)  # type: ignore[arg-type]
