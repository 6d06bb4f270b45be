from __future__ import annotations

from itertools import pairwise
from math import ceil, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedstrategies.pruning import (
    LOCAL_PRUNINGS,
    FixedPruning,
    LocalPruning,
    OrderedDropout,
    UniformPruning,
    layer_groups,
    parse_local_pruning,
)
from fedstrategies.random import Purpose, client_keys, derived_keys, uniforms
from tests.pruning.networks import small_cnn

GROUPS = layer_groups(small_cnn())
WEIGHTS = [entry for entry in GROUPS.entries if entry.is_weight]
LAWS = pytest.mark.parametrize("law", [UniformPruning(q=0.3), OrderedDropout(q=0.3)])


def keys(count: int, *, seed: int = 0, round: int = 1) -> torch.Tensor:
    return client_keys(seed, round, torch.arange(count), Purpose.CLIENT)


def ratios(q: float, step: int, count: int) -> torch.Tensor:
    streams = derived_keys(derived_keys(keys(count), Purpose.LOCAL_PRUNING), step)
    return q + (1 - q) * uniforms(streams, 1)[:, 0]


def test_fixed_is_no_pruning() -> None:
    assert FixedPruning().masks(GROUPS, step=0, keys=keys(3)) is None


@LAWS
def test_a_client_draws_alone_what_it_draws_among_others(law: LocalPruning) -> None:
    together = law.masks(GROUPS, step=4, keys=keys(5))
    assert together is not None
    for client in range(5):
        alone = law.masks(GROUPS, step=4, keys=keys(5)[client : client + 1])
        assert alone is not None
        assert torch.equal(alone[0], together[client])


@LAWS
def test_steps_clients_and_rounds_differ(law: LocalPruning) -> None:
    wide = layer_groups(nn.Sequential(nn.Linear(2, 3000), nn.Linear(3000, 2)))
    drawn = [
        law.masks(wide, step=step, keys=keys(2, seed=seed, round=round))
        for step, seed, round in ((0, 0, 1), (1, 0, 1), (0, 0, 2), (0, 1, 1))
    ]
    rows = {tuple(row.tolist()) for masks in drawn if masks is not None for row in masks}
    assert len(rows) == 8


@LAWS
def test_biases_and_norms_stay(law: LocalPruning) -> None:
    masks = law.masks(GROUPS, step=0, keys=keys(6))
    assert masks is not None
    for entry in GROUPS.entries:
        if not entry.is_weight:
            assert bool(masks[:, entry.span].all())
    assert not bool(masks.all())


@pytest.mark.parametrize("kind", [UniformPruning, OrderedDropout])
def test_ratio_one_keeps_everything(kind: type[UniformPruning]) -> None:
    masks = kind(q=1.0).masks(GROUPS, step=0, keys=keys(3))
    assert bool(masks.all())


def test_uniform_keeps_the_ratio_it_drew_in_every_weight() -> None:
    groups = layer_groups(nn.Sequential(nn.Linear(80, 100), nn.Linear(100, 90)))
    masks = UniformPruning(q=0.2).masks(groups, step=3, keys=keys(40))
    expected = ratios(0.2, 3, 40)
    assert 0.2 <= float(expected.min()) < 0.3
    assert 0.9 < float(expected.max()) < 1.0
    for entry in groups.entries:
        if entry.is_weight:
            share = masks[:, entry.span].double().mean(dim=1)
            deviation = (expected * (1 - expected) / entry.size).sqrt()
            assert float(((share - expected).abs() / deviation).max()) < 4.5
    first, second = (entry for entry in groups.entries if entry.is_weight)
    agree = masks[:, first.span] == masks[:, second.span][:, : first.size]
    assert not bool(agree.all(dim=1).any()), "two weights have masks of their own"


def test_ordered_dropout_keeps_leading_blocks_of_the_ratio_it_drew() -> None:
    masks = OrderedDropout(q=0.25).masks(GROUPS, step=2, keys=keys(7))
    for client, u in enumerate(ratios(0.25, 2, 7).tolist()):
        for entry in WEIGHTS:
            outputs, inputs = (ceil(u * size) for size in entry.shape[:2])
            if entry.name == "0.weight":
                inputs = entry.shape[1]
            if entry.name == "9.weight":
                outputs = entry.shape[0]
            expected = torch.zeros(entry.shape, dtype=torch.bool)
            expected[:outputs, :inputs] = True
            got = masks[client, entry.span].view(entry.shape)
            assert torch.equal(got, expected), (client, entry.name)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    q=st.floats(0.0, 1.0, exclude_min=True),
    step=st.integers(0, 1000),
)
def test_every_mask_leaves_a_network(sizes: list[int], q: float, step: int) -> None:
    groups = layer_groups(nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes))))
    masks = OrderedDropout(q=q).masks(groups, step=step, keys=keys(3))
    assert masks.shape == (3, groups.dimension)
    for entry in groups.entries:
        blocks = masks[:, entry.span].view(3, *entry.shape)
        assert bool(blocks.flatten(1).any(dim=1).all()), "at least one path remains"


def test_the_mean_ratio_is_that_of_the_uniform_law() -> None:
    groups = layer_groups(nn.Linear(6, 6))
    share = UniformPruning(q=0.5).masks(groups, step=0, keys=keys(4000))[:, :36].double().mean()
    assert abs(float(share) - 0.75) < 4 * sqrt((0.25 / 12 + 0.75 * 0.25 / 36) / 4000)


def test_laws_as_text() -> None:
    for example in LOCAL_PRUNINGS.values():
        assert parse_local_pruning(example).spec == example
    assert parse_local_pruning("uniform: q = .25") == UniformPruning(q=0.25)
    for text, message in {
        "dropout": "the local prunings are fixed, uniform:q=0.5, ordered:q=0.5",
        "fixed:q=1": "fixed has no settings",
        "uniform": "uniform needs q and nothing else, e.g. uniform:q=0.5",
        "ordered:p=0.5": "ordered needs q and nothing else",
        "ordered:q=half": "q = 'half' is not a number",
        "uniform:q=0": "uniform:q=0.0: the smallest ratio is above 0 and at most 1",
        "ordered:q=nan": "the smallest ratio is above 0 and at most 1",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_local_pruning(text)
