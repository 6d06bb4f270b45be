"""The scores against the objective they come from, and the identities between them."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedstrategies.pruning import (
    RIA,
    ActivationStatistics,
    GlobalPruning,
    LayerCriterion,
    Magnitude,
    RelativeImportance,
    StochRIA,
    Subsets,
    Symmetric,
    SymWanda,
    Wanda,
    layer_groups,
    relative_importance,
    ria_scores,
    stochria_scores,
    symmetric_scores,
    symwanda_scores,
    symwanda_scores_of,
)
from tests.pruning.networks import small_cnn, some_vector

DATA_FREE = (Magnitude(), Symmetric(), RelativeImportance(p=2.0), StochRIA(activations=False))
CALIBRATED = (Wanda(), SymWanda(), SymWanda(side="output"), RIA(), StochRIA())
P = pytest.mark.parametrize("p", [1.0, 2.0, 3.0, inf])


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def objective(pruned: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    """``||X (V - W)||_F + ||(V - W) Y||_F`` as the papers write it, with W of (in, out)."""
    change = (pruned - weight).T
    return float(torch.linalg.norm(inputs @ change) + torch.linalg.norm(change @ outputs))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    rows=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**32 - 1),
)
def test_removing_one_weight_costs_its_score(
    shape: tuple[int, int], rows: tuple[int, int], seed: int
) -> None:
    weight = normal(*shape, seed=seed)
    inputs = normal(rows[0], shape[1], seed=seed + 1)
    outputs = normal(shape[0], rows[1], seed=seed + 2)
    scores = symwanda_scores_of(weight, inputs=inputs, outputs=outputs)
    for row in range(shape[0]):
        for column in range(shape[1]):
            pruned = weight.clone()
            pruned[row, column] = 0.0
            cost = objective(pruned, weight, inputs, outputs)
            assert abs(float(scores[row, column]) - cost) <= 1e-12 * max(1.0, cost)


def test_a_layer_is_scored_as_torch_applies_it() -> None:
    layer = nn.Linear(5, 3, bias=False, dtype=torch.float64)
    inputs = normal(7, 5)
    scores = symwanda_scores_of(layer.weight, inputs=inputs)
    with torch.no_grad():
        dense = layer(inputs)
        layer.weight[2, 4] = 0.0
        change = layer(inputs) - dense
    torch.testing.assert_close(scores[2, 4], torch.linalg.norm(change), rtol=0, atol=1e-12)


def test_wanda_is_symwanda_without_an_output_side() -> None:
    weight, inputs = normal(4, 6), normal(9, 6, seed=1)
    norms = inputs.square().sum(0).sqrt()
    wanda = symwanda_scores(weight, input_norms=norms)
    zeros = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(wanda, symwanda_scores(weight, input_norms=norms, output_norms=zeros))
    assert torch.equal(wanda, weight.abs() * norms)
    side = symwanda_scores(weight, output_norms=norms[:4])
    assert torch.equal(side, weight.abs() * norms[:4, None])
    identity = torch.eye(6, dtype=torch.float64)
    assert torch.equal(symwanda_scores_of(weight, inputs=identity), weight.abs())


def test_symmetric_is_symwanda_of_the_weight_itself() -> None:
    weight = normal(4, 6)
    # In the papers' orientation X = Y = W^T, and their W^T is this weight.
    expected = symwanda_scores_of(weight, inputs=weight, outputs=weight)
    torch.testing.assert_close(symmetric_scores(weight), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        symmetric_scores(weight.T), symmetric_scores(weight).T, rtol=1e-13, atol=0
    )


@P
def test_ri_is_symwanda_of_reciprocal_norms(p: float) -> None:
    weight = normal(4, 6)
    rows = torch.linalg.vector_norm(weight, ord=p, dim=1)
    columns = torch.linalg.vector_norm(weight, ord=p, dim=0)
    expected = symwanda_scores_of(
        weight, inputs=torch.diag(1 / columns), outputs=torch.diag(1 / rows)
    )
    torch.testing.assert_close(relative_importance(weight, p=p), expected, rtol=1e-13, atol=0)


@P
def test_ri_ignores_the_scale_and_follows_a_transposition(p: float) -> None:
    weight = normal(5, 8)
    scores = relative_importance(weight, p=p)
    for scale in (1e-9, -3.7, 1e12):
        torch.testing.assert_close(
            relative_importance(scale * weight, p=p), scores, rtol=1e-12, atol=0
        )
    torch.testing.assert_close(relative_importance(weight.T, p=p), scores.T, rtol=1e-13, atol=0)


def test_ria_is_ri_weighed_by_inputs() -> None:
    weight, norms = normal(5, 8), normal(8, seed=1).abs()
    scores = ria_scores(weight, input_norms=norms)
    expected = relative_importance(weight) * norms.sqrt()
    torch.testing.assert_close(scores, expected, rtol=1e-13, atol=0)
    without = ria_scores(weight, input_norms=norms, exponent=0.0)
    assert torch.equal(without, relative_importance(weight))


@P
def test_a_whole_subset_gives_ri_and_ria_to_the_bit(p: float) -> None:
    weight, norms = normal(5, 8).float(), normal(8, seed=1).abs()
    for shared in (False, True):
        whole = Subsets(share=1.0, shared=shared)
        assert torch.equal(
            stochria_scores(weight, subsets=whole, p=p), relative_importance(weight, p=p)
        )
        assert torch.equal(
            stochria_scores(weight, subsets=whole, input_norms=norms, p=p),
            ria_scores(weight, input_norms=norms, p=p),
        )


def test_subsets_have_their_size_and_are_drawn_once() -> None:
    subsets = Subsets(share=0.3, seed=3)
    ones = torch.ones(7, 11)
    assert subsets.row_norms(ones, 1.0, name="a").tolist() == [4.0] * 7
    assert subsets.column_norms(ones, 1.0, name="a").tolist() == [3.0] * 11
    weight = normal(7, 11)
    first = stochria_scores(weight, subsets=subsets, name="a")
    assert torch.equal(first, stochria_scores(weight, subsets=subsets, name="a"))
    assert not torch.equal(first, stochria_scores(weight, subsets=subsets, name="b"))
    other = Subsets(share=0.3, seed=4)
    assert not torch.equal(first, stochria_scores(weight, subsets=other, name="a"))


def test_each_row_draws_a_subset_of_its_own_unless_they_share_one() -> None:
    row = normal(1, 40).expand(30, 40)
    own = Subsets(share=0.2).row_norms(row, 1.0, name="")
    assert len(set(own.tolist())) > 20
    shared = Subsets(share=0.2, shared=True).row_norms(row, 1.0, name="")
    assert len(set(shared.tolist())) == 1


def test_the_norm_of_a_subset_has_the_share_of_the_norm_as_its_mean() -> None:
    row = normal(1, 50).expand(4000, 50)
    norms = Subsets(share=0.2, seed=1).row_norms(row, 1.0, name="")
    values = row[0].abs()
    deviation = (10 * (1 - 0.2) * values.var() / 4000).sqrt()
    assert abs(norms.mean() - 0.2 * values.sum()) < 4 * deviation


def test_a_subset_of_zeros_falls_back_to_the_whole_line() -> None:
    weight = torch.zeros(20, 30)
    weight[:, 4] = 2.0
    norms = Subsets(share=0.1).row_norms(weight, 1.0, name="")
    assert norms.tolist() == [2.0] * 20


@pytest.mark.parametrize("criterion", [*DATA_FREE, *CALIBRATED], ids=lambda c: c.spec)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_rows_and_columns_are_safe(criterion: LayerCriterion, dtype: torch.dtype) -> None:
    weight = normal(6, 8).to(dtype)
    weight[2] = 0.0
    weight[:, 3] = 0.0
    weight[4, 5] = 1e-40
    inputs = normal(9, 8, seed=1)
    inputs[:, 6] = 0.0
    for tensor in (weight, torch.zeros_like(weight), weight * 1e-30):
        statistics = ActivationStatistics.of(inputs, tensor)
        scores = criterion.scores(tensor, name="w", statistics=statistics)
        assert scores.shape == tensor.shape
        assert bool((torch.isfinite(scores) & (scores >= 0)).all())
        assert bool((scores[tensor == 0] == 0).all())


@pytest.mark.parametrize("criterion", CALIBRATED, ids=lambda c: c.spec)
def test_activations_that_are_missing_or_do_not_fit_are_named(criterion: LayerCriterion) -> None:
    assert criterion.needs_activations
    weight = normal(3, 4)
    with pytest.raises(ValueError, match="needs the activations of 'layer'"):
        criterion.scores(weight, name="layer")
    other = ActivationStatistics.of(normal(2, 3), normal(4, 3))
    with pytest.raises(ValueError, match=r"3 inputs and 4 outputs for a weight of \(3, 4\)"):
        criterion.scores(weight, name="layer", statistics=other)


@pytest.mark.parametrize("criterion", DATA_FREE, ids=lambda c: c.spec)
def test_criteria_without_data_prune_convolutions_too(criterion: LayerCriterion) -> None:
    assert not criterion.needs_activations
    groups = layer_groups(small_cnn())
    x = some_vector(groups.dimension)
    mask = GlobalPruning(criterion=criterion).mask(x, groups, 0.5)
    for entry in groups.entries:
        expected = int(0.5 * entry.size) if entry.is_weight else entry.size
        assert int(mask[entry.span].sum()) == expected


def test_statistics_add_up() -> None:
    weight, inputs = normal(3, 5), normal(4, 6, 5, seed=1)
    whole = ActivationStatistics.of(inputs, weight, samples=4)
    first = ActivationStatistics.of(inputs[:1], weight, samples=1)
    merged = first.merged(ActivationStatistics.of(inputs[1:], weight, samples=3))
    assert (merged.samples, merged.tokens) == (4, 24)
    for name in ("input_norms", "output_norms", "input_totals", "input_variances"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))
    flat = inputs.reshape(-1, 5)
    torch.testing.assert_close(whole.input_norms, (flat.square().sum(0) / 4).sqrt())
    torch.testing.assert_close(whole.input_variances, flat.var(0, unbiased=False))
    torch.testing.assert_close(whole.output_norms, (flat @ weight.T).norm(dim=0) / 2)


def test_wrong_settings_are_refused() -> None:
    for build in (
        lambda: Subsets(share=0.0),
        lambda: Subsets(share=1.1),
        lambda: RelativeImportance(p=0.5),
        lambda: RIA(exponent=-1.0),
        lambda: StochRIA(p=float("nan")),
        lambda: symwanda_scores(normal(2, 2)),
        lambda: symwanda_scores(normal(2, 2), input_norms=normal(3)),
        lambda: relative_importance(normal(2, 2, 2)),
        lambda: ActivationStatistics.of(normal(0, 2), normal(1, 2)),
    ):
        with pytest.raises(ValueError, match=r"share|p =|exponent|X = 0|norms|shape|sample"):
            build()
