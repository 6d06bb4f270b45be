from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedstrategies.pruning import (
    ActivationStatistics,
    Calibrated,
    GlobalPruning,
    LayerGroups,
    Magnitude,
    OrderedPruning,
    Wanda,
    layer_groups,
    parse_global_pruning,
)
from tests.pruning.networks import MLP, small_cnn, some_vector

GROUPS = layer_groups(small_cnn())
X = some_vector(GROUPS.dimension)
NOTHING = torch.zeros(1, len(GROUPS), dtype=torch.bool)
FIRST = torch.tensor([0])


def stack_of(shapes: list[tuple[int, int]]) -> LayerGroups:
    return layer_groups(nn.Sequential(*(nn.Linear(a, b) for a, b in shapes)))


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    keep=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_magnitude_keeps_exactly_the_largest(
    shapes: list[tuple[int, int]], keep: float, seed: int, dtype: torch.dtype
) -> None:
    groups = stack_of(shapes)
    # Few values, so that ties are the rule.
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (groups.dimension,), generator=generator).to(dtype)
    mask = GlobalPruning().mask(x, groups, keep)
    for entry in groups.entries:
        kept = mask[entry.span]
        if not entry.is_weight:
            assert bool(kept.all())
            continue
        assert int(kept.sum()) == int(keep * entry.size) or keep == 1.0
        values = x[entry.span].abs().tolist()
        order = sorted(range(entry.size), key=lambda i, values=values: (-values[i], i))
        assert kept.nonzero().flatten().tolist() == sorted(order[: int(kept.sum())])


def test_the_number_of_values_in_the_pruned_model() -> None:
    for keep in (0.9, 0.7, 0.5, 0.0, 1.0):
        model = GlobalPruning(keep=keep).prune(X, GROUPS, NOTHING, clients=FIRST).models[0]
        for entry in GROUPS.entries:
            expected = int(keep * entry.size) if entry.is_weight else entry.size
            assert int(model[entry.span].count_nonzero()) == expected, (keep, entry.name)


def test_groups_of_the_client_and_their_neighbours() -> None:
    assigned = torch.tensor([[True, False, False, False, True], [False] * 5, [True] * 5])
    pruned = GlobalPruning(keep=0.3).prune(X, GROUPS, assigned, clients=torch.arange(3))
    common = GlobalPruning().mask(X, GROUPS, 0.3)
    for client in range(3):
        for position, group in enumerate(GROUPS):
            for part in group.slices:
                got = pruned.masks[client, part]
                assert torch.equal(got, common[part] | assigned[client, position])
    assert torch.equal(pruned.models[2], X)
    assert torch.equal(pruned.models, X * pruned.masks)
    assert not bool(torch.signbit(pruned.models[~pruned.masks]).any())


def test_what_is_not_finite_does_not_survive_pruning() -> None:
    x = X.clone()
    x[GROUPS.entries[0].start] = 1e-30
    pruned = OrderedPruning(keep=0.25).prune(
        torch.full_like(x, torch.inf), GROUPS, NOTHING, clients=FIRST
    )
    assert bool((pruned.models[~pruned.masks] == 0).all())


def test_each_client_has_its_own_share() -> None:
    law = GlobalPruning(keep=(0.9, 0.2, 0.9, 0.5))
    everyone = law.prune(X, GROUPS, NOTHING.expand(4, -1), clients=torch.arange(4))
    for client, keep in enumerate((0.9, 0.2, 0.9, 0.5)):
        alone = law.prune(X, GROUPS, NOTHING, clients=torch.tensor([client]))
        assert torch.equal(alone.masks[0], everyone.masks[client])
        assert torch.equal(alone.masks[0], law.mask(X, GROUPS, keep))
    with pytest.raises(ValueError, match=r"keep has 4 shares and none for client 4"):
        law.prune(X, GROUPS, NOTHING, clients=torch.tensor([4]))
    with pytest.raises(ValueError, match=r"L_i of 1 clients for 2 clients"):
        law.prune(X, GROUPS, NOTHING, clients=torch.tensor([0, 1]))


def test_shares_are_nested() -> None:
    for law in (GlobalPruning(), OrderedPruning()):
        masks = [law.mask(X, GROUPS, keep) for keep in (0.0, 0.2, 0.5, 0.8, 1.0)]
        for smaller, larger in pairwise(masks):
            assert bool((larger | ~smaller).all())


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=5),
    keep=st.floats(0.0, 1.0, exclude_max=True),
)
def test_ordered_pruning_is_a_narrower_network(sizes: list[int], keep: float) -> None:
    groups = stack_of(list(pairwise(sizes)))
    mask = OrderedPruning().mask(torch.ones(groups.dimension), groups, keep)
    widths = [ceil(sqrt(keep) * size) for size in sizes]
    widths[0], widths[-1] = sizes[0], sizes[-1]
    weights = [entry for entry in groups.entries if entry.is_weight]
    for entry, inputs, outputs in zip(weights, widths, widths[1:], strict=False):
        expected = torch.zeros(entry.shape, dtype=torch.bool)
        expected[:outputs, :inputs] = True
        assert torch.equal(mask[entry.span].view(entry.shape), expected)
        assert OrderedPruning().kept(entry, keep) == inputs * outputs


def test_an_ordered_network_computes_what_the_narrow_one_computes() -> None:
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    groups = layer_groups(module)
    x = some_vector(groups.dimension, seed=3)
    model = OrderedPruning(keep=0.25).prune(
        x, groups, torch.zeros(1, 3, dtype=torch.bool), clients=FIRST
    )
    rows = some_vector(20, seed=4).view(4, 5)
    scores = torch.func.functional_call(module, groups.layout.unflatten(model.models[0]), (rows,))
    whole = groups.layout.unflatten(x)
    signal = (rows @ whole["0.weight"][:4].T + whole["0.bias"][:4]).relu()
    signal = (signal @ whole["2.weight"][:4, :4].T + whole["2.bias"][:4]).relu()
    expected = signal @ whole["4.weight"][:, :4].T + whole["4.bias"]
    torch.testing.assert_close(scores, expected)


def test_ordered_pruning_of_gates_cuts_each_alike() -> None:
    groups = layer_groups(nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2)))
    mask = OrderedPruning().mask(torch.ones(groups.dimension), groups, 0.25)
    hidden = next(entry for entry in groups.entries if entry.name == "0.weight_hh_l0")
    kept = mask[hidden.span].view(4, 4, 4)
    assert bool(kept[:, :2, :2].all())
    assert int(kept.sum()) == 16 == OrderedPruning().kept(hidden, 0.25)


def test_long_weights_keep_exactly_their_share() -> None:
    groups = layer_groups(MLP())
    x = some_vector(groups.dimension)
    for keep in (0.01, 0.7):
        mask = GlobalPruning().mask(x, groups, keep)
        for entry in groups.entries:
            if entry.is_weight:
                kept, values = mask[entry.span], x[entry.span].abs()
                assert int(kept.sum()) == int(keep * entry.size)
                assert float(values[kept].min()) >= float(values[~kept].max())


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A criterion with what it likes built in."""

    result: Tensor | None = None

    @property
    def spec(self) -> str:
        return "planned"

    def scores(self, weight: Tensor, *, name: str) -> Tensor:
        if self.result is not None:
            return self.result
        return torch.arange(weight.numel(), dtype=torch.float32).view(weight.shape)


def test_a_criterion_is_a_plug_in() -> None:
    law = GlobalPruning(keep=0.5, criterion=Planned())
    mask = law.mask(X, GROUPS, 0.5)
    for entry in GROUPS.entries:
        if entry.is_weight:
            kept = int(0.5 * entry.size)
            expected = torch.arange(entry.size) >= entry.size - kept
            assert torch.equal(mask[entry.span], expected)
    assert law.spec == "planned"


def test_negative_zero_is_a_zero() -> None:
    groups = stack_of([(4, 1)])
    law = GlobalPruning(criterion=Planned(result=torch.tensor([[-0.0, 0.0, 0.0, 1.0]])))
    assert law.mask(torch.ones(5), groups, 0.5)[:4].tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.ones(4), r"scores of shape \(4,\) and torch.float32 for 'weight'"),
        (torch.ones(1, 4, dtype=torch.int64), r"torch.int64 for 'weight'"),
        (torch.tensor([[1.0, -1.0, 0.0, 0.0]]), r"negative or not finite for 'weight'"),
        (torch.tensor([[1.0, torch.nan, 0.0, 0.0]]), r"negative or not finite for 'weight'"),
    ],
)
def test_scores_that_do_not_fit_are_refused(result: Tensor, message: str) -> None:
    groups = layer_groups(nn.Linear(4, 1))
    with pytest.raises(ValueError, match=message):
        GlobalPruning(criterion=Planned(result=result)).mask(torch.ones(5), groups, 0.5)


def test_a_model_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"negative or not finite for '0.weight'"):
        GlobalPruning().mask(torch.full_like(X, torch.nan), GROUPS, 0.5)


def test_impossible_shares_are_refused() -> None:
    for keep in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"the share that is kept is between 0 and 1"):
            GlobalPruning(keep=keep)
        with pytest.raises(ValueError, match=r"the share that is kept is between 0 and 1"):
            OrderedPruning(keep=(0.5, keep))
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        GlobalPruning().mask(torch.ones(3), GROUPS, 0.5)


def test_a_calibrated_criterion_prunes_by_its_activations() -> None:
    module = small_cnn()
    groups = layer_groups(module)
    x = some_vector(groups.dimension)
    entry = next(entry for entry in groups.entries if entry.name == "8.weight")
    weight = x[entry.span].view(entry.shape)
    inputs = torch.rand(20, entry.shape[1], generator=torch.Generator().manual_seed(1))
    known = ActivationStatistics.of(inputs * torch.logspace(-2, 2, entry.shape[1]), weight)
    criterion = Calibrated(criterion=Wanda(), statistics={"8.weight": known}, fallback=Magnitude())
    law = GlobalPruning(criterion=criterion)
    mask = law.mask(x, groups, 0.5)
    scores = weight.abs() * known.input_norms
    kept = scores.flatten().argsort(descending=True)[: int(0.5 * entry.size)]
    assert sorted(kept.tolist()) == mask[entry.span].nonzero().flatten().tolist()
    plain = GlobalPruning().mask(x, groups, 0.5)
    for other in groups.entries:
        same = torch.equal(mask[other.span], plain[other.span])
        assert same == (other.name != "8.weight")
    with pytest.raises(ValueError, match="fallback wanda needs activations itself"):
        Calibrated(criterion=Wanda(), statistics={}, fallback=Wanda())


def test_laws_as_text() -> None:
    assert parse_global_pruning("magnitude", keep=0.7) == GlobalPruning(keep=0.7)
    assert parse_global_pruning("ordered", keep=(0.5, 0.7)) == OrderedPruning(keep=(0.5, 0.7))
    for text in ("magnitude", "ordered", "symmetric"):
        assert parse_global_pruning(text).spec == text
    for text in ("ri", "stochri"):
        assert parse_global_pruning(text).spec.startswith(f"{text}:")
    with pytest.raises(ValueError, match=r"the global prunings are magnitude, symmetric"):
        parse_global_pruning("random")
