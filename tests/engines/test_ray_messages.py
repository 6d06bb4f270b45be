"""Messages through actors in finite time: replies that are late, and actors that die meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

from fedstrategies.engines import RayGrid
from fedstrategies.engines.shares import Machine
from tests.engines.fake_ray import FakeActor, FakeRay, nth
from tests.flower.conftest import CLIENTS, Setting
from tests.flower.private_setting import DEPLOYED, SIMULATED, app_of


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch, Machine(cpus=4, gpus=0))


@pytest.fixture
def grid(ray: FakeRay) -> RayGrid:
    """Four clients, two an actor; they count the messages they have seen."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen = context.state.get("seen", MetricRecord({"count": 0}))
        count = seen["count"] + 1
        context.state["seen"] = MetricRecord({"count": count})
        return Message(RecordDict({"seen": MetricRecord({"count": count})}), reply_to=message)

    return RayGrid(app, num_clients=4, actors=2)


def messages(grid: RayGrid) -> list[Message]:
    return [
        Message(RecordDict(), dst_node_id=node, message_type="train")
        for node in grid.get_node_ids()
    ]


def counts(replies: Any) -> dict[int, int]:
    return {r.metadata.src_node_id: r.content["seen"]["count"] for r in replies}


def slow(seconds: float, *, of: int) -> Any:
    def takes(actor: FakeActor, method: str) -> float:
        return seconds if method == "execute" and of in actor.partitions else 0.0

    return takes


def test_replies_that_come_in_time_are_returned_at_the_end_of_it(
    ray: FakeRay, grid: RayGrid
) -> None:
    ray.seconds = slow(10.0, of=3)
    assert counts(grid.send_and_receive(messages(grid), timeout=4.0)) == {1001: 1, 1002: 1}
    assert ray.now == 4.0
    # The late ones were delivered all the same; nobody is there to take the replies.
    ray.seconds = slow(0.0, of=3)
    later = counts(grid.send_and_receive(messages(grid), timeout=7.0))
    assert later == {1001: 2, 1002: 2, 1003: 2, 1004: 2}
    assert ray.now == 10.0
    assert not grid._replies
    assert not grid._batches


def test_late_replies_are_dropped_but_those_of_pushed_messages_wait(
    ray: FakeRay, grid: RayGrid
) -> None:
    ids = list(grid.push_messages(messages(grid)))
    ray.seconds = slow(10.0, of=3)
    for _ in range(3):
        assert len(list(grid.send_and_receive(messages(grid), timeout=1.0))) == 2
    ray.now += 100.0
    assert len(grid._batches) == 0
    assert counts(grid.pull_messages(ids)) == dict.fromkeys(range(1001, 1005), 1)
    assert not grid._replies


def test_a_successor_works_within_what_is_left_of_the_time(ray: FakeRay, grid: RayGrid) -> None:
    ray.seconds, ray.deadly = slow(3.0, of=0), nth("execute", 1, of=0)
    # 3 s until the death, 3 s until its successor has answered.
    assert len(list(grid.send_and_receive(messages(grid), timeout=5.0))) == 2
    assert ray.now == 5.0
    ray.seconds = slow(0.0, of=0)
    assert counts(grid.send_and_receive(messages(grid), timeout=5.0)) == {
        1001: 2,
        1002: 2,
        1003: 2,
        1004: 2,
    }
    assert [shard.generation for shard in grid.shards] == [2, 1]


def test_pulling_does_not_wait_for_a_successor(ray: FakeRay, grid: RayGrid) -> None:
    ray.deadly = nth("execute", 1, of=0)
    ids = list(grid.push_messages(messages(grid)))
    ray.seconds = slow(8.0, of=0)
    assert counts(grid.pull_messages(ids)) == {1003: 1, 1004: 1}
    assert ray.now == 0.0
    assert grid.shards[0].generation == 2
    ray.now = 20.0
    assert counts(grid.pull_messages(ids)) == {1001: 1, 1002: 1}


def test_what_ends_two_actors_is_given_up_however_little_time_there_is(
    ray: FakeRay, grid: RayGrid
) -> None:
    ray.deadly = nth("execute", 1, 2, of=0)
    ids = list(grid.push_messages(messages(grid)))
    assert len(list(grid.pull_messages(ids))) == 2
    with pytest.raises(RuntimeError, match="for partitions 0, 1"):
        grid.pull_messages(ids)
    ray.deadly = nth("")
    assert len(counts(grid.send_and_receive(messages(grid)))) == 4


def test_a_successor_without_room_is_reported_when_its_time_is_up(
    ray: FakeRay, grid: RayGrid
) -> None:
    ray.full, ray.deadly = True, nth("execute", 1, of=0)
    for _ in range(11):
        assert len(list(grid.send_and_receive(messages(grid), timeout=10.0))) == 2
    with pytest.raises(RuntimeError, match="has not started another one within 120 s"):
        grid.send_and_receive(messages(grid), timeout=10.0)
    assert ray.now == 120.0
    ray.full = False
    assert len(list(grid.send_and_receive(messages(grid)))) == 4


def test_what_is_known_of_the_noise_comes_from_an_actor(ray: FakeRay) -> None:
    for privacy, repeats in ((SIMULATED, True), (DEPLOYED, False)):
        grid = RayGrid(app_of(Setting(), privacy), num_clients=CLIENTS, actors=2)
        assert grid.repeats_releases is repeats
