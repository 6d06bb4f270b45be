from __future__ import annotations

from itertools import pairwise
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedstrategies.fedp3 import (
    LAYER_CHOICES,
    CapacityLayers,
    OverlappedLayers,
    RandomLayers,
    parse_layers,
    uncovered,
    uplink_fraction,
)
from fedstrategies.pruning import LayerGroups, layer_groups
from tests.pruning.networks import MLP, LeNet, on_meta

LENET = layer_groups(on_meta(LeNet))


def chain(layers: int, classifier: str | None = None) -> LayerGroups:
    """``layers`` shared layers, then the classifier (unless another is named)."""
    return layer_groups(
        nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers + 1))), classifier=classifier
    )


def chosen(name: str, groups: LayerGroups, clients: int, round: int = 1) -> list[set[int]]:
    drawn = parse_layers(name).draw(groups, clients=clients, seed=0, round=round)
    assert drawn.shape == (clients, len(groups))
    return [set(row.nonzero().flatten().tolist()) for row in drawn]


@pytest.mark.parametrize(("name", "count"), [("lowerb", 1), ("opu2", 2), ("opu3", 3)])
def test_the_authors_rule_for_100_clients_and_4_layers(name: str, count: int) -> None:
    expected = [{(i // 25 + j) % 4 for j in range(count)} | {4} for i in range(100)]
    assert chosen(name, LENET, 100) == expected


def test_the_authors_rule_for_2_layers() -> None:
    groups = layer_groups(on_meta(MLP))
    assert chosen("lowerb", groups, 100) == [{i // 50, 2} for i in range(100)]
    for name in ("opu2", "opu3", "opr2", "opu23", "all"):
        assert chosen(name, groups, 100) == [{0, 1, 2}] * 100


def test_the_mean_upload_of_the_authors_networks() -> None:
    def fraction(name: str, groups: LayerGroups) -> float:
        drawn = parse_layers(name).draw(groups, clients=100, seed=0, round=1)
        return round(uplink_fraction(groups, drawn), 4)

    assert [fraction(name, LENET) for name in ("lowerb", "opu2", "opu3", "all")] == [
        0.2527,
        0.5018,
        0.7509,
        1.0,
    ]
    hundred = layer_groups(on_meta(LeNet, classes=100))
    found = [fraction(name, hundred) for name in ("lowerb", "opu2", "opu3")]
    assert found == [0.2765, 0.5177, 0.7588]
    letters = layer_groups(on_meta(MLP))
    assert [fraction(name, letters) for name in ("lowerb", "opu2")] == [0.5027, 1.0]


def test_one_two_or_three_layers_in_turn() -> None:
    sets = chosen("opu123", LENET, 100)
    assert sets[:4] == [{0, 4}, {0, 1, 4}, {0, 1, 2, 4}, {0, 4}]
    assert sets[25:28] == [{1, 4}, {1, 2, 4}, {1, 2, 3, 4}]
    assert sets[99] == {3, 4}
    uneven = [len(layers) - 1 for layers in chosen("opu123", LENET, 10)]
    assert uneven == [1, 2, 3, 1, 2, 1, 2, 3, 1, 2], "parts of 3, 2, 3 and 2 clients"
    pairs = chosen("opu23", LENET, 100)
    assert pairs[75:78] == [{3, 0, 4}, {3, 0, 1, 4}, {3, 0, 4}]


def test_the_classifier_may_stand_anywhere() -> None:
    groups = chain(3, classifier="1")
    assert chosen("lowerb", groups, 3) == [{0, 1}, {1, 2}, {1, 3}]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(LAYER_CHOICES)),
    clients=st.integers(1, 40),
    layers=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_every_choice_is_one(name: str, clients: int, layers: int, seed: int) -> None:
    groups, choice = chain(layers), LAYER_CHOICES[name]
    drawn = choice.draw(groups, clients=clients, seed=seed, round=3)
    assert drawn.shape == (clients, layers + 1)
    assert drawn.dtype == torch.bool
    assert bool(drawn[:, groups.classifier].all())
    assert torch.equal(drawn, choice.draw(groups, clients=clients, seed=seed, round=3))
    if choice.fixed:
        assert torch.equal(drawn, choice.draw(groups, clients=clients, seed=seed + 1, round=9))
        assert uncovered(drawn, groups) == ()
    if isinstance(choice, OverlappedLayers):
        counts = drawn[:, list(groups.shared)].sum(dim=1)
        parts = [floor(i * max(1, min(clients, layers)) / clients) for i in range(clients)]
        assert parts == sorted(parts)
        assert max(parts.count(g) for g in parts) - min(parts.count(g) for g in parts) <= 1
        if clients >= layers:
            allowed = {min(count, layers) for count in choice.counts}
            assert set(counts.tolist()) <= allowed


@settings(max_examples=50, deadline=None)
@given(clients=st.integers(1, 30), layers=st.integers(1, 9))
def test_lowerb_is_disjoint_and_more_layers_send_more(clients: int, layers: int) -> None:
    groups = chain(layers)
    draws = [
        LAYER_CHOICES[name].draw(groups, clients=clients, seed=0, round=0)
        for name in ("lowerb", "opu2", "opu3", "all")
    ]
    for smaller, larger in pairwise(draws):
        assert bool((larger | ~smaller).all())
        assert uplink_fraction(groups, larger) >= uplink_fraction(groups, smaller)
    shared = draws[0][:, list(groups.shared)]
    representatives = torch.unique(shared, dim=0)
    assert bool((representatives.sum(dim=0) == 1).all()), "each layer belongs to one part"


def test_random_layers_change_each_round_and_are_uniform() -> None:
    draws = [
        RandomLayers(count=2).draw(LENET, clients=100, seed=5, round=t).double() for t in range(60)
    ]
    assert all(bool((drawn.sum(dim=1) == 3).all()) for drawn in draws)
    assert not torch.equal(draws[0], draws[1])
    share = torch.stack(draws).mean(dim=(0, 1))[:4]
    assert float((share - 0.5).abs().max()) < 4 * (0.25 / 6000) ** 0.5
    other = RandomLayers(count=2).draw(LENET, clients=100, seed=6, round=0)
    assert not torch.equal(draws[0], other.double())
    fewer = RandomLayers(count=2).draw(LENET, clients=7, seed=5, round=0)
    assert torch.equal(fewer, draws[0][:7].bool()), "a client's draw does not depend on n"


def test_names() -> None:
    assert list(LAYER_CHOICES) == ["all", "lowerb", "opu2", "opu3", "opr2", "opu123", "opu23"]
    for name, choice in LAYER_CHOICES.items():
        assert choice.spec == name
        assert parse_layers(name.upper()) == choice
    with pytest.raises(ValueError, match=r"'opu9': the choices of layers are all, lowerb, opu2"):
        parse_layers("opu9")
    for counts in ((), (2, 0)):
        with pytest.raises(ValueError, match=r"a client trains 1 segment or more"):
            OverlappedLayers(counts=counts)
    with pytest.raises(ValueError, match=r"a client trains 1 layer or more"):
        RandomLayers(count=0)
    for name in LAYER_CHOICES:
        with pytest.raises(ValueError, match=r"0 clients"):
            parse_layers(name).draw(LENET, clients=0, seed=0, round=0)


BYTES = [group.bytes for group in LENET]


@settings(max_examples=80, deadline=None)
@given(
    budgets=st.lists(st.integers(BYTES[4], 2 * sum(BYTES)), min_size=1, max_size=12),
    seed=st.integers(0, 10**6),
)
def test_capacity_is_used_and_not_exceeded(budgets: list[int], seed: int) -> None:
    choice = CapacityLayers(capacity=tuple(budgets))
    drawn = choice.draw(LENET, clients=len(budgets), seed=seed, round=4)
    assert torch.equal(drawn, choice.draw(LENET, clients=len(budgets), seed=seed, round=9))
    assert choice.fixed
    for row, budget in zip(drawn.tolist(), budgets, strict=True):
        used = sum(b for b, mine in zip(BYTES, row, strict=True) if mine)
        assert row[4]
        assert used <= budget
        left_out = [b for b, mine in zip(BYTES, row, strict=True) if not mine]
        assert all(used + b > budget for b in left_out), "nothing more would have fitted"
        assert all(row) == (sum(BYTES) <= budget)


def test_small_clients_spread_over_the_layers() -> None:
    groups = chain(4)
    one = groups.groups[0].bytes
    drawn = CapacityLayers(capacity=2 * one).draw(groups, clients=400, seed=1, round=1)
    assert bool((drawn.sum(dim=1) == 2).all())
    share = drawn[:, :4].double().mean(dim=0)
    assert float((share - 0.25).abs().max()) < 4 * (0.25 * 0.75 / 400) ** 0.5
    other = CapacityLayers(capacity=2 * one).draw(groups, clients=400, seed=2, round=1)
    assert not torch.equal(drawn, other)


def test_layers_that_fit_nowhere_are_named() -> None:
    drawn = CapacityLayers(capacity=1_000_000).draw(LENET, clients=3, seed=0, round=1)
    assert uncovered(drawn, LENET) == ("fc1", "fc2")


def test_a_capacity_below_the_classifier_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"'fc3' takes 41000 bytes and belongs to every client; client 1 has a capacity of 40",
    ):
        CapacityLayers(capacity=(41_000, 40_999)).draw(LENET, clients=2, seed=0, round=1)
    with pytest.raises(ValueError, match=r"2 capacities for 3 clients"):
        CapacityLayers(capacity=(41_000, 41_000)).draw(LENET, clients=3, seed=0, round=1)
    assert CapacityLayers(capacity=(1, 2)).spec == "capacity:1,2"
    assert CapacityLayers(capacity=5).spec == "capacity:5"
