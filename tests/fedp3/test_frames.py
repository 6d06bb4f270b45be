from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrategies.compressors import Floats, Payload
from fedstrategies.fedp3 import Downlink, expected_bytes, parse_layers
from fedstrategies.fedp3.algorithm import FedP3Rule, LocalTraining
from fedstrategies.fedp3.settings import rule_of, settings_of
from fedstrategies.pruning import (
    GlobalPruning,
    OrderedDropout,
    OrderedPruning,
    UniformPruning,
    layer_groups,
)
from fedstrategies.wire import decode, encode
from tests.fedp3.setting import Setting
from tests.pruning.networks import LeNet, some_vector

GROUPS = Setting().groups
X = some_vector(GROUPS.dimension, seed=4)
LAWS = {"unstructured": GlobalPruning, "ordered": OrderedPruning}


def link(bits: tuple[bool, ...], keep: float, law: str = "unstructured") -> Downlink:
    return Downlink(groups=GROUPS, assigned=bits, keep=keep, ordered=law == "ordered")


def over_the_wire(parts: tuple[Payload, ...], made: Downlink) -> list[Payload]:
    blobs = [encode(part) for part in parts]
    return [decode(b, dimension=d) for b, d in zip(blobs, made.lengths, strict=True)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 1.0])
def test_what_arrives_is_what_the_law_leaves(law: str, keep: float) -> None:
    pruning = LAWS[law](keep=keep)
    for some in product([False, True], repeat=3):
        bits = (*some, True)
        made = link(bits, keep, law)
        mask = pruning.mask(X, GROUPS, keep) if keep < 1.0 else None
        point, parts = made.split(X, mask)
        ids, assigned = torch.zeros(1, dtype=torch.int64), torch.tensor([bits])
        expected = pruning.prune(X, GROUPS, assigned, clients=ids).models[0]
        assert torch.equal(point, expected)
        assert torch.equal(made.assemble(over_the_wire(parts, made)), expected)
        own = torch.cat([X[part] for part in made.own_slices])
        assert torch.equal(own, X[made.own])


@settings(max_examples=25, deadline=None)
@given(keep=st.floats(0.0, 1.0), bits=st.tuples(*[st.booleans()] * 3))
def test_never_longer_than_the_formula_and_a_frame_or_two(
    keep: float, bits: tuple[bool, bool, bool]
) -> None:
    for law, kind in LAWS.items():
        pruning = kind(keep=keep)
        made = link((*bits, True), keep, law)
        _, parts = made.split(X, pruning.mask(X, GROUPS, keep))
        sent = sum(len(encode(part)) for part in parts)
        formula = expected_bytes(GROUPS, torch.tensor([[*bits, True]]), pruning=pruning)
        assert sent <= int(formula.down[0]) + 64


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("name", ["lowerb", "opu2", "opu3"])
def test_the_authors_network_takes_what_the_formula_says(name: str, keep: float) -> None:
    """Gaps undercut bitmaps and lists by a little; 64 bytes of frames come on top."""
    groups = layer_groups(LeNet())
    x = some_vector(groups.dimension, seed=5)
    pruning = GlobalPruning(keep=keep)
    mask = pruning.mask(x, groups, keep)
    rows = parse_layers(name).draw(groups, clients=100, seed=0, round=1).unique(dim=0)
    formula = expected_bytes(groups, rows, pruning=pruning)
    for row, up, down in zip(rows, formula.up.tolist(), formula.down.tolist(), strict=True):
        made = Downlink(groups=groups, assigned=tuple(row.tolist()), keep=keep)
        _, parts = made.split(x, mask)
        sent = sum(len(encode(part)) for part in parts)
        assert 0.85 * down < sent <= down + 64
        upload = encode(_vector(x[made.own]))
        assert up < len(upload) <= up + 64


def _vector(x: torch.Tensor) -> Payload:
    return Payload(dimension=len(x), values=Floats(x.unsqueeze(0)))


def test_frames_of_another_kind_are_refused() -> None:
    made = link((False, True, False, True), 0.5)
    _, parts = made.split(X, GlobalPruning(keep=0.5).mask(X, GROUPS, 0.5))
    whole = _vector(torch.ones(made.lengths[1]))
    with pytest.raises(ValueError, match=r"a frame of the model does not hold \d+ floats"):
        made.assemble([parts[0], whole])
    with pytest.raises(ValueError, match="L_i of 2 groups, the model has 4"):
        link((True, True), 1.0)
    with pytest.raises(ValueError, match="the classifier belongs to every client"):
        link((True, True, True, False), 1.0)


@pytest.mark.parametrize("ordered", [False, True])
def test_a_rule_survives_the_journey(ordered: bool) -> None:
    for pruning in (UniformPruning(q=0.5), OrderedDropout(q=0.25)):
        rule = FedP3Rule(
            downlink=Downlink(
                groups=GROUPS, assigned=(False, True, False, True), keep=0.7, ordered=ordered
            ),
            training=LocalTraining(stepsize=0.1, max_norm=10.0, pruning=pruning),
            local_steps=(5, 2, 3),
            trained="assigned",
        )
        constants, spec = settings_of(rule)
        assert rule_of((*constants, 2.0), spec, GROUPS) == rule.row(1)


def test_a_rule_of_many_groups_survives_too() -> None:
    from torch import nn

    groups = layer_groups(nn.Sequential(*[nn.Linear(1, 1) for _ in range(70)]))
    bits = tuple(place % 3 == 0 for place in range(69))
    made = Downlink(groups=groups, assigned=(*bits, True), keep=1.0)
    rule = FedP3Rule(downlink=made, training=LocalTraining(stepsize=1.0), local_steps=(1,))
    constants, spec = settings_of(rule)
    assert len(constants) == 6
    assert rule_of((*constants, 1.0), spec, groups) == rule
    with pytest.raises(ValueError, match="on a model of 4 layer groups"):
        rule_of((*constants, 1.0), spec, GROUPS)
    with pytest.raises(ValueError, match="the server asks for 'scafflix' with 1 constants"):
        rule_of((1.0,), "scafflix", GROUPS)
