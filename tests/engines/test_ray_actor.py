"""What an actor keeps of its clients' memories, and when their nodes have them."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Message, RecordDict
from torch import Tensor

pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

from ray.cloudpickle import dumps

from fedstrategies.compressors import TopK
from fedstrategies.engines.parcel import Parcel
from fedstrategies.engines.ray_actor import ShardWorker
from fedstrategies.engines.shares import Machine
from fedstrategies.flower.control import Tag
from fedstrategies.flower.records import load_memory, load_receipts
from tests.engines.fake_ray import FakeRay
from tests.engines.ray_cases import efbv
from tests.flower.conftest import CLIENTS, DIMENSION, Setting

MINE = (1, 3, 5, 7)
"""Partitions of the actor: its rows 0 to 3."""

TAG = Tag(session=9, sequence=1, checksum=0)
NEWBORN = Parcel({"h": torch.zeros((1, DIMENSION), dtype=torch.float64)})
NOTHING = Parcel({"h": torch.zeros((0, DIMENSION), dtype=torch.float64)})


@pytest.fixture
def worker() -> ShardWorker:
    """It has served a session in which rows 1 to 3 got to 1, 2 and 3, and flushed."""
    worker = ShardWorker(dumps(Setting().app), CLIENTS, MINE, {})
    assert worker.begin(NEWBORN, [], NOTHING) == []
    worker.restore([1, 2, 3], memories(1, 2, 3))
    worker.flush([1, 2, 3], [TAG] * 3, (9, 1), Parcel([]))
    return worker


def memories(*values: float) -> Parcel[dict[str, Tensor]]:
    rows = torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, DIMENSION)
    return Parcel({"h": rows.clone()})


def written(worker: ShardWorker) -> list[float | None]:
    """What the nodes hold by themselves."""
    found = [load_memory(c.state) for c in worker._grid.receipts.values()]
    return [None if memory is None else float(memory["h"][0, 0]) for memory in found]


def look(worker: ShardWorker, *partitions: int) -> None:
    """Send a message (that the client cannot read) to some nodes."""
    node = {partition: node for node, partition in worker._grid.partitions.items()}
    worker.execute(
        Parcel(
            [Message(RecordDict(), dst_node_id=node[p], message_type="train") for p in partitions]
        )
    )


def test_a_flush_writes_receipts_and_memories_follow_when_a_node_is_looked_at(
    worker: ShardWorker,
) -> None:
    states = [context.state for context in worker._grid.receipts.values()]
    assert [load_receipts(state).committed == TAG for state in states] == [False, True, True, True]
    assert written(worker) == [None] * 4
    look(worker, 5)
    assert written(worker) == [None, None, 2.0, None]
    worker.end()
    look(worker, 3, 1)
    assert written(worker) == [None, 1.0, 2.0, None]
    assert worker._memory
    look(worker, 7)
    assert written(worker) == [None, 1.0, 2.0, 3.0]
    assert not worker._memory  # the nodes have all of it


def test_a_session_takes_up_the_memories_in_their_place(worker: ShardWorker) -> None:
    held = worker._memory["h"]
    worker.end()
    assert worker.begin(NEWBORN, [1, 2, 3], memories(1, 2, 3)) == []
    assert worker._memory["h"] is held
    assert held[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    worker.restore([2], memories(7))
    worker.settle(Parcel(torch.tensor([3])), Parcel(torch.zeros(DIMENSION)))
    # The session ends without a flush: receipts of partitions 5 and 7 are not those of their rows.
    worker.end()
    look(worker, *MINE)
    assert written(worker) == [None, 1.0, None, None]


def test_what_nodes_have_lost_is_said(worker: ShardWorker) -> None:
    node = next(node for node, partition in worker._grid.partitions.items() if partition == 5)
    worker._grid.receipts[node].state = RecordDict()
    assert worker.begin(NEWBORN, [1, 2, 3], memories(1, 2, 3)) == [2]


def test_evaluation_writes_the_memories_of_those_who_evaluate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = FakeRay(monkeypatch, Machine(cpus=8, gpus=0))
    case = efbv(compressor=TopK(k=3), fraction_evaluate=0.25, min_evaluate_nodes=2)
    found = case.run(case.grid(2), rounds=1)
    memories = [
        load_memory(context.state)
        for actor in ray.made
        for context in actor.made._grid.receipts.values()
    ]
    rows = [row for row, memory in enumerate(memories) if memory is not None]
    assert len(rows) == 2
    for row in rows:
        memory = memories[row]
        assert memory is not None
        assert torch.equal(memory["h"][0], found.strategy.memory["h"][row])
