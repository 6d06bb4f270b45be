"""What many clients take: their memories, once; and nodes that get theirs when looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict

from fedstrategies.compressors import TopK
from fedstrategies.efbv import EF21
from fedstrategies.engines import CohortGrid
from fedstrategies.flower.records import load_memory, load_receipts
from tests.flower.conftest import CLIENTS, Setting


@pytest.fixture
def setting() -> Setting:
    return Setting()


def trained(setting: Setting, grid: CohortGrid, rounds: int = 4) -> EF21:
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness, fraction_evaluate=0.0)
    strategy.start(grid, setting.start, num_rounds=rounds)
    return strategy


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_run_takes_its_clients_memories_once() -> None:
    """A dense gradient, a flush or a sum for all clients at once would double it."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.many_clients"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["needed"] < found["taken"] < 1.3 * found["needed"] + 20e6
    # The measure sees copies: looking at all nodes makes one of each memory.
    assert found["nodes"] == 120
    assert found["written"] > 0.5 * found["needed"]


def test_a_node_gets_its_memory_when_it_is_looked_at(setting: Setting) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="require")
    strategy = trained(setting, grid)
    assert strategy.memory is not None
    for index, context in enumerate(grid.receipts.values()):
        assert load_memory(context.state) is None
        assert load_receipts(context.state).committed == strategy.ledger.accepted(index)
    for index, context in enumerate(grid.contexts.values()):
        memory = load_memory(context.state)
        assert memory is not None
        assert torch.equal(memory["h"][0], strategy.memory["h"][index])


def test_nodes_that_were_replaced_are_owed_nothing(setting: Setting) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy = trained(setting, grid)
    grid.contexts = {
        node: Context(
            run_id=1,
            node_id=node,
            node_config={"partition-id": partition, "num-partitions": CLIENTS},
            state=RecordDict(),
            run_config={},
        )
        for node, partition in grid.partitions.items()
    }
    assert not any(context.state for context in grid.contexts.values())
    grid.fast = "never"
    strategy.start(grid, strategy.arrays, num_rounds=3)
    straight = CohortGrid(setting.app, num_clients=CLIENTS, fast="require")
    assert torch.equal(strategy.x, trained(setting, straight, rounds=7).x)


def test_messages_find_the_memories_of_a_session_that_ended(setting: Setting) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy = trained(setting, grid)
    grid.fast = "never"
    result = strategy.start(grid, strategy.arrays, num_rounds=3)
    assert strategy.bytes.recovery == 0
    straight = CohortGrid(setting.app, num_clients=CLIENTS, fast="require")
    expected = trained(setting, straight, rounds=7)
    assert torch.equal(strategy.x, expected.x)
    assert result.arrays is not None


def test_a_memory_that_moved_on_elsewhere_is_not_written(setting: Setting) -> None:
    """Its row is another upload's by then; the node must not take it for its own."""
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy = trained(setting, grid)
    elsewhere = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    strategy.start(elsewhere, strategy.arrays, num_rounds=2)
    assert all(load_memory(context.state) is None for context in grid.contexts.values())
    # Back on the first grid the nodes are found to be behind, and are restored.
    before = strategy.bytes.recovery
    grid.fast = "never"
    strategy.start(grid, strategy.arrays, num_rounds=3)
    assert strategy.bytes.recovery > before
    assert strategy.memory is not None
    assert (strategy.h - strategy.memory["h"].mean(dim=0)).abs().max() < 1e-12
