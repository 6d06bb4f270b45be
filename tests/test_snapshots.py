"""Snapshots hold what state is made of, and nothing comes out of a file but numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedstrategies.snapshots import Packed, pack, unpack


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    point: torch.Tensor
    low: tuple[float, float] | None = None
    kept: dict[int, torch.Tensor] = field(default_factory=dict)


def through_json(tree: object, *classes: type) -> object:
    packed = pack(tree)
    skeleton = json.loads(json.dumps(packed.skeleton))
    return unpack(Packed(skeleton, packed.tensors), classes=classes)


atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    atoms | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 99), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
def test_what_is_packed_comes_out_again(tree: object) -> None:
    assert through_json(tree) == tree


def test_tensors_and_dataclasses_come_out_again() -> None:
    point = torch.tensor([1.5, -0.0, inf], dtype=torch.float64)
    search = Search(point=point, low=(0.1, inf), kept={3: point[:1]})
    found = through_json({"solve": search, "rows": [point.float()]}, Search)
    assert found["solve"].point.equal(point)
    assert found["solve"].low == (0.1, inf)
    assert found["solve"].kept[3].equal(point[:1])
    assert found["rows"][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [object()]}, r"\.a\.0: a object cannot be kept"),
        ({1.5: 0}, "a key of type float"),
        ({"a": {1: torch.zeros(1), "1": torch.zeros(1)}}, "two tensors have this place"),
    ],
)
def test_what_cannot_be_kept_is_named(tree: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pack(tree)


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (["tensor", "x"], "there is no tensor 'x'"),
        (["bytes", 3], "there is no tensor 3"),
        (["object", "Popen", {"args": "true"}], "a Popen is not expected here"),
        (["object", "Search", {"points": 1}], "a Search with other fields: points"),
        (["map", [[1]]], "not a part of a snapshot"),
        (["set", [[1]]], "not a part of a snapshot"),
        (["unknown"], "not a part of a snapshot"),
        ({}, "not a part of a snapshot"),
    ],
)
def test_what_is_no_snapshot_is_refused(skeleton: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(Packed(skeleton), classes=[Search])


def test_depth_is_bounded() -> None:
    nested: object = 1
    for _ in range(80):
        nested = ["list", [nested]]
    with pytest.raises(ValueError, match="nested deeper"):
        unpack(Packed(nested))
