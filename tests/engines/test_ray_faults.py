"""What may go wrong between the driver and an actor, beside the actor's plain death."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError

from fedstrategies.compressors import RandK, TopK
from fedstrategies.engines.ray_actor import ShardWorker
from fedstrategies.engines.ray_failures import PLACING_SECONDS
from fedstrategies.engines.ray_shard import Shard
from fedstrategies.engines.shares import Machine
from fedstrategies.experiment import ray_backend
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.options import ConfigError
from tests.engines.fake_ray import FakeRay, instead, nth
from tests.engines.ray_cases import CASES, FOUR, FRAME, Case, efbv, scafflix
from tests.flower.conftest import CLIENTS

HALF = CLIENTS // 2
UNREACHABLE = ActorUnavailableError("the connection broke", None)
GONE = ObjectLostError("00", "", "")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch, Machine(cpus=8, gpus=2))


class Raising:
    """Raises after a round, and has something happen first."""

    def __init__(self, round: int, first: Any = lambda: None) -> None:
        self.round, self.first = round, first

    def on_start(self, x: torch.Tensor) -> None: ...

    def on_round(self, record: Any) -> None:
        if record.round == self.round:
            self.first()
            raise KeyError("the user's own")

    def on_end(self) -> None: ...


# -------------------------------------------------------------------- work of unknown fate


@pytest.mark.parametrize("evaluated", [0.0, 1.0])
@pytest.mark.parametrize(
    "make",
    [
        partial(efbv, compressor=TopK(k=3)),
        partial(efbv, compressor=RandK(k=2), sampling=FOUR, shift_init="gradient"),
        scafflix,
    ],
    ids=["efbv", "efbv-4-of-8-gradient", "scafflix"],
)
def test_an_actor_that_may_not_have_settled_is_not_believed(
    ray: FakeRay, make: Any, evaluated: float
) -> None:
    """Whether nodes are flushed before its next step or not."""
    case = make(fraction_evaluate=evaluated)
    alone = case.run(case.grid())
    for time in (1, 4, 7):
        ray.fault = instead(UNREACHABLE, nth("settle", time))
        grid = case.grid(2)
        found = case.run(grid)
        found.assert_equal(alone)
        assert sum(shard.generation - 1 for shard in grid.shards) == 1
        assert found.recovery[-1] > 0


def test_nor_is_it_at_the_end_of_a_run(ray: FakeRay) -> None:
    """Nodes get what the strategy has, though the last settlement did not reach them."""
    case = CASES["scafflix"]()
    whole = case.run(case.grid(), rounds=8)
    ray.fault = instead(UNREACHABLE, nth("settle", 4, of=0))
    grid, strategy = case.grid(2), case.strategy()
    arrays = strategy.start(grid, case.start, num_rounds=4).arrays
    restored = strategy.bytes.recovery
    grid.fast = "never"
    strategy.start(grid, arrays, num_rounds=4)
    assert torch.equal(strategy.x, whole.points[-1])
    assert strategy.bytes.recovery == restored > 0


@pytest.mark.parametrize("method", ["num_examples", "begin", "step", "flush"])
@pytest.mark.parametrize("error", [UNREACHABLE, GONE], ids=["unreachable", "lost"])
def test_answers_that_do_not_come_are_asked_for_again(
    ray: FakeRay, method: str, error: Exception
) -> None:
    case = CASES["efbv-4-of-8-gradient"]()
    ray.fault = instead(error, nth(method, 2))
    grid = case.grid(2)
    case.run(grid).assert_equal(case.run(case.grid()))
    assert sum(shard.generation - 1 for shard in grid.shards) == 1


def test_restoring_is_confirmed_like_settling(ray: FakeRay) -> None:
    case = efbv(compressor=RandK(k=2), sampling=FOUR, seed=5)
    alone = case.run(case.grid())
    ray.deadly = nth("step", 3, of=0)
    ray.fault = instead(UNREACHABLE, nth("restore", 1))
    grid = case.grid(2)
    case.run(grid).assert_equal(alone)
    assert [shard.generation for shard in grid.shards] == [3, 1]


def test_what_kills_two_actors_is_given_up_and_so_are_two_deaths_in_one_round(
    ray: FakeRay,
) -> None:
    first, second = CASES["gd"]().grid(2).shards
    ray.deadly = nth("num_examples", 1, 2)
    answer = first.ask("num_examples")
    assert not answer.poll()
    first.died = False  # another round has begun
    with pytest.raises(RuntimeError, match="died twice"):
        answer.poll()
    ray.deadly = nth("num_examples", 1, 3)
    second.ask("num_examples").get()
    with pytest.raises(RuntimeError, match="died twice"):
        second.ask("num_examples").get()


def test_a_death_belongs_to_its_own_session(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3), fraction_evaluate=0.0)
    whole = case.run(case.grid(), rounds=6)
    grid, strategy, arrays = case.grid(2), case.strategy(), case.start
    for method in ("flush", "step", "reason_against"):
        ray.deadly = nth(method, 1, of=0)
        arrays = strategy.start(grid, arrays, num_rounds=2).arrays
    assert [shard.generation for shard in grid.shards] == [4, 1]
    assert torch.equal(strategy.x, whole.points[-1])


def test_clients_that_lost_all_between_sessions_are_restored_and_counted(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3))
    whole = case.run(case.grid(), rounds=4)
    grid, strategy = case.grid(2), case.strategy()
    arrays = strategy.start(grid, case.start, num_rounds=2).arrays
    assert strategy.bytes.recovery == 0
    ray.deadly = nth("reason_against", 1, of=0)
    strategy.start(grid, arrays, num_rounds=2)  # fast="require"
    assert torch.equal(strategy.x, whole.points[-1])
    assert strategy.bytes.recovery == HALF * FRAME


@pytest.mark.parametrize("method", ["step", "reason_against", "settle"])
def test_versions_of_the_model_are_sent_again_and_counted(ray: FakeRay, method: str) -> None:
    case = efbv(compressor=TopK(k=3), downlink=TopK(k=6))
    whole = case.run(case.grid(), rounds=9)
    grid, strategy, arrays = case.grid(2), case.strategy(), case.start
    for part in range(3):
        ray.deadly = nth(method, 1, of=0) if part == 1 else nth("")
        grid.fast = "never" if part == 2 else "require"
        arrays = strategy.start(grid, arrays, num_rounds=3).arrays
    assert torch.equal(strategy.x, whole.points[-1])
    # A memory and a model for each client of the actor, and no more by messages.
    assert strategy.bytes.recovery == HALF * 2 * FRAME
    assert strategy.bytes.downlink == whole.counts[-1][-1]


def test_by_messages_model_and_memory_come_together(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3), downlink=TopK(k=6))
    ray.deadly = nth("execute", 4, of=0)
    found = case.run(case.grid(2, fast="never"))
    assert found.recovery[-1] == HALF * 2 * FRAME


# -------------------------------------------------------------------- starting


def test_an_actor_without_room_is_not_waited_for_for_ever(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3))
    grid = case.grid(2)
    ray.full, ray.deadly = True, nth("step", 3, of=0)
    with pytest.raises(RuntimeError, match="has not started another one within 120 s: its CPUs"):
        case.run(grid)
    assert ray.now == PLACING_SECONDS
    assert [shard.lost for shard in grid.shards] == [True, False]


def test_an_interrupted_start_leaves_no_actor(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CASES["gd"]().grid(3)
    assert [actor.dead for actor in ray.made] == [True] * 3


def test_too_slow_a_start_leaves_none_either(ray: FakeRay) -> None:
    ray.full = True
    with pytest.raises(ValueError, match="has not started 3 actors within 120 s"):
        CASES["gd"]().grid(3)
    assert [actor.dead for actor in ray.made] == [True] * 3


TRACEBACK = """ray::ShardWorker.__init__() (pid=7, ip=10.0.0.1, actor_id=abc)
  File "/somewhere/ray_actor.py", line 80, in __init__
    self._grid = CohortGrid(loads(app))
ModuleNotFoundError: No module named 'theirs'
"""


def test_an_app_that_cannot_be_loaded_is_one_line_on_the_command_line(ray: FakeRay) -> None:
    cause = ModuleNotFoundError("No module named 'theirs'")
    failed = ActorDiedError(RayTaskError("__init__", TRACEBACK, cause, ip="10.0.0.1"))
    ray.fault = instead(failed, nth("ready", 1))
    config = EFBVConfig(clients=CLIENTS, backend="ray", actors=2)
    line = (
        r"^backend ray: a Ray actor could not start: ModuleNotFoundError: No module named 'theirs'$"
    )
    with pytest.raises(ConfigError, match=line):
        ray_backend.ray_grid(config, CASES["gd"]().app)


# -------------------------------------------------------------------- ending


def test_a_closed_grid_says_so_and_starts_nothing(ray: FakeRay) -> None:
    case = CASES["gd"]()
    grid = case.grid(2)
    grid.close()
    for fast in ("require", "never"):
        grid.fast = fast
        with pytest.raises(RuntimeError, match="this RayGrid is closed; make a new one"):
            case.run(grid, rounds=1)
    assert len(ray.made) == 2
    grid.close()


def test_a_grid_may_be_closed_under_a_run(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3))
    grid = case.grid(2)
    with pytest.raises(KeyError, match="the user's own"):
        case.strategy().start(
            grid, case.start, num_rounds=4, callbacks=[Raising(2, first=grid.close)]
        )
    assert len(ray.made) == 2


def test_survivors_of_a_failed_flush_are_told_that_the_session_is_over(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3), fraction_evaluate=0.0)
    grid = case.grid(2)

    def fatal() -> None:
        ray.deadly = nth("flush", 1, 2, of=0)

    with pytest.raises(KeyError, match="the user's own"):
        case.strategy().start(grid, case.start, num_rounds=4, callbacks=[Raising(2, fatal)])
    assert ray.asked("end") == [(4, 5, 6, 7)]
    # An error of its own is raised if there is none before it.
    grid = case.grid(2)
    fatal()
    with pytest.raises(RuntimeError, match=r"died twice .* 'flush'"):
        case.run(grid, rounds=1)


def test_a_session_that_could_not_begin_leaves_nothing(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ShardWorker.begin

    def full(self: ShardWorker, *arguments: Any) -> Any:
        if CLIENTS - 1 in self._grid.partitions.values():
            raise MemoryError("no room")
        return begin(self, *arguments)

    monkeypatch.setattr(ShardWorker, "begin", full)
    case: Case = efbv(compressor=TopK(k=3))
    grid = case.grid(2)
    with pytest.raises(MemoryError, match="no room"):
        case.run(grid, rounds=1)
    assert [shard.on_rebuilt for shard in grid.shards] == [None, None]
    assert len(ray.asked("end")) == 2


@pytest.mark.parametrize(
    ("partitions", "text"),
    [
        ((3,), "client 3"),
        (range(7), "clients 0 to 6"),
        ((0, 2, 4, 6, 8, 10, 12), "7 of clients 0 to 12"),
    ],
)
def test_an_actor_is_named_by_its_clients(partitions: Any, text: str) -> None:
    assert str(Shard(lambda partitions: None, partitions)) == f"the Ray actor of {text}"
