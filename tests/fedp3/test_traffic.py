from __future__ import annotations

from math import ceil, log2

import pytest
import torch
from torch import nn

from fedstrategies.fedp3 import expected_bytes, parse_layers, uplink_fraction
from fedstrategies.layout import Layout
from fedstrategies.pruning import GlobalPruning, OrderedPruning, layer_groups
from tests.pruning.networks import LeNet, on_meta

LENET = layer_groups(on_meta(LeNet))
WEIGHTS = {"conv1": 4_800, "conv2": 102_400, "fc1": 1_638_400, "fc2": 1_048_576, "fc3": 10_240}
BIASES = {"conv1": 64, "conv2": 64, "fc1": 1024, "fc2": 1024, "fc3": 10}


def by_hand(layers: set[str], keep: float) -> tuple[int, int]:
    up = sum(32 * (WEIGHTS[name] + BIASES[name]) for name in layers)
    down = up
    for name in set(WEIGHTS) - layers:
        size = WEIGHTS[name]
        kept = int(keep * size)
        ways = (size + 32 * kept, kept * (32 + ceil(log2(size))), 32 * size)
        down += min(ways) + 32 * BIASES[name]
    return ceil(up / 8), ceil(down / 8)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", ["lowerb", "opu2", "opu3", "all"])
def test_the_formula_on_the_authors_cnn(name: str, keep: float) -> None:
    assigned = parse_layers(name).draw(LENET, clients=8, seed=0, round=1)
    found = expected_bytes(LENET, assigned, pruning=GlobalPruning(keep=keep))
    for client, row in enumerate(assigned.tolist()):
        layers = {name for name, mine in zip(LENET.names, row, strict=True) if mine}
        expected = by_hand(layers, keep)
        assert (int(found.up[client]), int(found.down[client])) == expected


def test_each_coding_is_the_shortest_somewhere() -> None:
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    size, bits = 1_638_400, 21
    for keep, expected in ((0.001, 1638 * (32 + bits)), (0.5, size + 32 * size // 2)):
        groups = layer_groups(on_meta(LeNet), layout=Layout.of_module(LeNet(), trainable="fc1.w*"))
        found = expected_bytes(groups, nothing[:, :1], pruning=GlobalPruning(keep=keep))
        assert int(found.down) == ceil(expected / 8)
    found = expected_bytes(groups, nothing[:, :1], pruning=GlobalPruning(keep=0.99))
    assert int(found.down) == 4 * size


def test_the_upload_is_the_fraction() -> None:
    for name in ("lowerb", "opu2", "opu3", "opr2", "all"):
        assigned = parse_layers(name).draw(LENET, clients=100, seed=0, round=2)
        found = expected_bytes(LENET, assigned)
        mean = float(found.up.double().mean()) / (4 * LENET.dimension)
        assert mean == pytest.approx(uplink_fraction(LENET, assigned), rel=1e-14)
        assert bool((found.down == 4 * LENET.dimension).all()), "nothing is pruned"


def test_shares_belong_to_clients() -> None:
    law = GlobalPruning(keep=(0.9, 0.5, 0.1))
    assigned = parse_layers("lowerb").draw(LENET, clients=3, seed=0, round=1)
    everyone = expected_bytes(LENET, assigned, pruning=law)
    for client in range(3):
        alone = expected_bytes(
            LENET,
            assigned[client : client + 1],
            pruning=law,
            clients=torch.tensor([client]),
        )
        assert torch.equal(alone.down, everyone.down[client : client + 1])
        assert torch.equal(alone.up, everyone.up[client : client + 1])
    assert len(set(everyone.down.tolist())) == 3


def test_ordered_blocks_need_no_positions() -> None:
    groups = layer_groups(
        nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)).to(torch.float64)
    )
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    found = expected_bytes(groups, nothing, pruning=OrderedPruning(keep=0.25))
    assert int(found.down) == 8 * ((4 * 6 + 8) + (4 * 4 + 8) + (2 * 4 + 2))
    assert int(found.up) == 0


def test_values_count_with_their_own_width() -> None:
    half = layer_groups(nn.Linear(3, 5).to(torch.bfloat16))
    found = expected_bytes(half, torch.ones(2, 1, dtype=torch.bool))
    assert found.up.tolist() == found.down.tolist() == [40, 40]


def test_no_client_sends_nothing() -> None:
    found = expected_bytes(LENET, torch.zeros(0, 5, dtype=torch.bool))
    assert found.up.shape == found.down.shape == (0,)


def test_another_models_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"L_i of shape \(2, 4\), expected \(C, 5\)"):
        expected_bytes(LENET, torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"keep has 1 shares and none for client 1"):
        expected_bytes(
            LENET, torch.zeros(2, 5, dtype=torch.bool), pruning=GlobalPruning(keep=(0.5,))
        )
