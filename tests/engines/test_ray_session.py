"""Whatever the number of actors, and whichever of them die: the bits of one process.

Actors are objects here that are reached through pickles (see `fake_ray`); Ray's own processes
are in `test_ray_grid`.
"""

from __future__ import annotations

import logging
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as PlainFedAvg

pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

from fedstrategies.compressors import RandK, TopK
from fedstrategies.efbv import EFBV, EFBVClient, GradientDescent
from fedstrategies.engines import RayGrid
from fedstrategies.engines.parcel import Parcel
from fedstrategies.engines.shares import Machine
from fedstrategies.flower import client_app
from fedstrategies.privacy import Privacy
from tests.engines.fake_ray import FakeRay, nth
from tests.engines.ray_cases import CASES, FOUR, FRAME, Case, efbv, scafflix
from tests.flower.conftest import CLIENTS, DIMENSION, Setting


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch, Machine(cpus=8, gpus=2))


@pytest.mark.parametrize("name", CASES)
def test_one_two_and_three_actors_give_the_bits_of_one_process(ray: FakeRay, name: str) -> None:
    case = CASES[name]()
    alone = case.run(case.grid())
    for actors in (1, 2, 3):
        case.run(case.grid(actors)).assert_equal(alone)
    assert len(set(ray.asked("step"))) == 6


@pytest.mark.parametrize("name", ["efbv-4-of-8-gradient", "scafflix-4-of-8", "fedp3"])
def test_clients_of_different_shares_have_actors_of_their_own_and_the_same_bits(
    ray: FakeRay, name: str
) -> None:
    case = CASES[name]()
    alone = case.run(case.grid())
    shares = (0.5, 0.25, 0.5, 0.25, 0.25, 1.0, 0.5, 0.25)
    grid = case.grid(4, gpus_per_client=shares)
    owned = {tuple(shard.partitions.tolist()) for shard in grid.shards}
    for group in owned:
        assert len({shares[partition] for partition in group}) == 1
    assert sorted(p for group in owned for p in group) == list(range(CLIENTS))
    case.run(grid).assert_equal(alone)


# -------------------------------------------------------------------- actors that die


@pytest.mark.parametrize("name", ["efbv-4-of-8-gradient", "scafflix-4-of-8", "scafflix"])
@pytest.mark.parametrize("method", ["step", "settle"])
def test_a_new_actor_goes_on_with_the_same_bits(ray: FakeRay, name: str, method: str) -> None:
    case = CASES[name]()
    alone = case.run(case.grid())
    for time in (1, 4, 7):
        ray.deadly = nth(method, time)
        grid = case.grid(2)
        case.run(grid).assert_equal(alone)
        assert sum(shard.generation - 1 for shard in grid.shards) == 1


def test_what_a_new_actor_is_sent_is_counted_as_recovery(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3))
    ray.deadly = nth("step", 3, of=CLIENTS - 1)
    found = case.run(case.grid(2))
    assert found.recovery[1] == 0
    assert found.recovery[2] == found.recovery[-1] == (CLIENTS // 2) * FRAME
    # Before the first round there is nothing to restore.
    ray.deadly = nth("step", 1)
    assert case.run(case.grid(2)).recovery[-1] == 0


def test_every_actor_may_die_in_the_same_round_and_again_in_the_next(ray: FakeRay) -> None:
    case = CASES["scafflix"]()
    alone = case.run(case.grid())
    ray.deadly = nth("step", 3, 4, 7, 8)
    grid = case.grid(2)
    case.run(grid).assert_equal(alone)
    assert sum(shard.generation - 1 for shard in grid.shards) == 4


def test_a_death_between_two_kinds_of_messages_of_one_round(ray: FakeRay) -> None:
    """The answers to the first assignment are used, though who gave them is gone."""
    case = efbv(compressor=RandK(k=2), sampling=FOUR, shift_init="gradient", seed=5)
    alone = case.run(case.grid())
    for time in (1, 2, 3, 4, 5, 6, 8):
        ray.deadly = nth("step", time, of=0)
        case.run(case.grid(2)).assert_equal(alone)


def test_work_that_kills_two_actors_is_not_tried_again(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3))
    ray.deadly = nth("step", 3, 4, of=0)
    grid = case.grid(2)
    with pytest.raises(RuntimeError, match=r"died twice .* 'step' for partitions 0, 1, 2, 3: "):
        case.run(grid)
    assert [shard.lost for shard in grid.shards] == [True, False]
    # The grid is not lost: its next user starts the actor again.
    grid.fast = "never"
    case.run(grid, rounds=2)
    assert not any(shard.lost for shard in grid.shards)


def test_an_error_of_the_mathematics_is_raised_as_it_is(ray: FakeRay) -> None:
    class Broken(EFBVClient):
        def rule(self, constants: Any, spec: str) -> Any:
            raise ArithmeticError("client 0 cannot follow")

    found = Setting()
    app = client_app(lambda context: Broken(context, objective=found.objectives[0]))
    case = Case(app, found.start, lambda: EFBV(compressor=TopK(k=3), smoothness=found.smoothness))
    with pytest.raises(ArithmeticError, match=r"^client 0 cannot follow$"):
        case.run(case.grid(2))


def test_flushing_survives_a_death(ray: FakeRay) -> None:
    case = CASES["efbv"]()
    ray.deadly = nth("flush", 1)
    grid = case.grid(2)
    strategy = case.strategy()
    arrays = strategy.start(grid, case.start, num_rounds=4).arrays
    grid.fast = "never"
    strategy.start(grid, arrays, num_rounds=4)
    whole = case.run(case.grid())
    assert torch.equal(strategy.x, whole.points[-1])


# -------------------------------------------------------------------- messages


@pytest.mark.parametrize("name", ["efbv-4-of-8-gradient", "scafflix", "fedp3", "sppm-models"])
def test_messages_give_the_same_bits_and_bytes(ray: FakeRay, name: str) -> None:
    case = CASES[name]()
    case.run(case.grid(3, fast="never")).assert_equal(case.run(case.grid()))
    assert not ray.asked("step")


@pytest.mark.parametrize("name", ["efbv-4-of-8-gradient", "scafflix-4-of-8"])
def test_a_run_goes_from_cohorts_to_messages_and_back(ray: FakeRay, name: str) -> None:
    case = CASES[name]()
    whole = case.run(case.grid(), rounds=12)
    grid, strategy, arrays = case.grid(2), case.strategy(), case.start
    for fast in ("require", "never", "require"):
        grid.fast = fast
        arrays = strategy.start(grid, arrays, num_rounds=4).arrays
    assert torch.equal(strategy.x, whole.points[-1])
    assert strategy.bytes.recovery == 0


def test_a_compressed_downlink_goes_on_by_messages(ray: FakeRay) -> None:
    case = efbv(compressor=TopK(k=3), downlink=TopK(k=6))
    whole = case.run(case.grid(), rounds=8)
    grid, strategy = case.grid(2), case.strategy()
    arrays = strategy.start(grid, case.start, num_rounds=4).arrays
    grid.fast = "never"
    strategy.start(grid, arrays, num_rounds=4)
    assert torch.equal(strategy.x, whole.points[-1])
    assert strategy.bytes.downlink == whole.counts[-1][-1]
    assert strategy.bytes.recovery == 0


def test_clients_of_an_actor_that_died_are_restored_by_messages(ray: FakeRay) -> None:
    case = CASES["efbv"]()
    ray.deadly = nth("execute", 4, of=0)
    found = case.run(case.grid(2, fast="never"))
    strategy = found.strategy
    assert found.recovery[-1] == (CLIENTS // 2) * FRAME
    assert (strategy.h - strategy.memory["h"].mean(dim=0)).abs().max() < 1e-12


def test_messages_that_kill_two_actors_name_their_clients(ray: FakeRay) -> None:
    case = CASES["efbv"]()
    ray.deadly = nth("execute", 4, 5, of=0)
    with pytest.raises(RuntimeError, match="for partitions 0, 1, 2, 3"):
        case.run(case.grid(2, fast="never"))


def test_any_strategy_and_any_app_run_and_an_exception_is_that_clients_error(
    ray: FakeRay,
) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 2:
            raise ArithmeticError("no data")
        moved = [v + context.node_id for v in message.content["arrays"].to_numpy_ndarrays()]
        content = {"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    grid = RayGrid(app, num_clients=3, actors=2)
    result = PlainFedAvg(fraction_evaluate=0.0).start(
        grid, ArrayRecord([np.zeros(2)]), num_rounds=1
    )
    assert result.arrays.to_numpy_ndarrays()[0] == pytest.approx([1001.5, 1001.5])
    asked = [
        Message(RecordDict({"arrays": result.arrays}), dst_node_id=node, message_type="train")
        for node in grid.get_node_ids()
    ]
    replies = list(grid.send_and_receive(asked))
    assert [reply.has_error() for reply in replies] == [False, False, True]
    assert "no data" in replies[2].error.reason
    assert not list(grid.pull_messages(["unknown"]))


# -------------------------------------------------------------------- when it may be taken


class OwnFit(EFBVClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return super().fit(parameters, config)


class OwnGrid(RayGrid):
    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        return super().send_and_receive(messages, timeout=timeout)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("fit", "client 6 overrides fit"),
        ("private", "private clients answer one message each"),
        ("grid", "the grid overrides send_and_receive"),
        ("budget", "memory_budget"),
    ],
)
def test_clients_are_looked_at_where_they_are(
    ray: FakeRay, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = Setting()

    def client(context: Context) -> EFBVClient:
        index = int(context.node_config["partition-id"])
        kind = OwnFit if change == "fit" and index in (6, 7) else EFBVClient
        privacy = Privacy(max_grad_norm=1.0, noise_multiplier=1.0, simulated_seed=0)
        return kind(
            context,
            objective=found.objectives[index],
            privacy=privacy if change == "private" else None,
        )

    settings = {"memory_budget": 0} if change == "budget" else {}
    strategy = EFBV(compressor=TopK(k=3), smoothness=found.smoothness, **settings)
    grid = (OwnGrid if change == "grid" else RayGrid)(
        client_app(client), num_clients=CLIENTS, actors=2, fast="require"
    )
    with pytest.raises(ValueError, match=reason):
        strategy.start(grid, found.start, num_rounds=1)
    logging.getLogger("flwr").propagate = True
    caplog.set_level(logging.INFO, logger="flwr")
    grid.fast = "auto"
    strategy.start(grid, found.start, num_rounds=1)
    assert reason in caplog.text


def test_a_second_strategy_on_a_used_grid_is_told(ray: FakeRay) -> None:
    case = CASES["efbv"]()
    grid = case.grid(2)
    case.run(grid)
    with pytest.raises(ValueError, match="clients remember another run"):
        case.run(grid)


def test_an_individual_rule_that_cannot_be_divided_is_refused(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedstrategies.engines.ray_step import rule_of

    class Old:
        def row(self, index: int) -> Old:
            return self

    grid = CASES["gd"]().grid(2)
    with pytest.raises(TypeError, match=r"Old has row\(\) and no rows\(\)"):
        rule_of(Old(), grid.shards[0])  # type: ignore[arg-type]


# -------------------------------------------------------------------- what travels


def test_messages_travel_compressed(ray: FakeRay) -> None:
    """A step's answer is its k values and indices."""
    case = efbv(compressor=TopK(k=1))
    case.run(case.grid(1), rounds=1)
    compressed = ray.answered.pop("step")
    dense = efbv(kind=GradientDescent)
    dense.run(dense.grid(1), rounds=1)
    # Of d values of 8 bytes a client one is left, with its index.
    assert ray.answered["step"] - compressed > CLIENTS * 8 * (DIMENSION - 4)


def test_assignments_do_not_wait_for_one_another_nor_anybody_for_a_settlement(
    ray: FakeRay,
) -> None:
    case = CASES["fedp3"]()
    case.run(case.grid(2), rounds=1)
    steps = [what for what, method in ray.log if method == "step"]
    assert len(steps) > 4
    assert steps == sorted(steps)

    case = scafflix(fraction_evaluate=0.0)
    ray.log.clear()
    case.run(case.grid(2), rounds=3)
    each = [f"{what} {method}" for what, method in ray.log if method in ("step", "settle")]
    told = each[::2]  # of two actors
    between = ["ask settle", "ask step", "read settle", "read step"]
    assert told == ["ask step", "read step", *between, *between, "ask settle", "read settle"]


def test_a_parcel_keeps_tensors_of_every_kind_and_leaves_the_rest_of_their_storage() -> None:
    base = torch.arange(1000.0)
    content = {
        "row": base[10:12],
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "one": torch.tensor(3),
        "none": torch.empty((0, 4)),
        "turned": torch.arange(6).reshape(2, 3).T,
        "rest": [None, "text", 7],
    }
    data = pickle.dumps(Parcel(content), protocol=5)
    assert len(data) < 2000
    arrived = pickle.loads(data).content
    assert arrived["rest"] == content["rest"]
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert arrived[name].dtype is value.dtype
            assert torch.equal(arrived[name], value)
    buffers: list[pickle.PickleBuffer] = []
    outside = pickle.dumps(Parcel(base), protocol=5, buffer_callback=buffers.append)
    assert len(outside) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == base.nbytes


def test_an_app_that_holds_data_is_warned_of(
    ray: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").propagate = True
    found, data = Setting(), np.zeros(200_000)

    def client(context: Context) -> EFBVClient:
        assert len(data)
        return EFBVClient(context, objective=found.objectives[0])

    RayGrid(client_app(client), num_clients=2, actors=1)
    assert "the pickled ClientApp has 1.6 MB" in caplog.text


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_clients": 0}, "at least one client"),
        ({"actors": 0}, "actors = 0: at least one"),
        ({"actors": 9}, "actors = 9"),
        ({"fast": "soon"}, "is not 'auto'"),
        ({"cpus_per_client": 16}, "16 CPUs"),
        ({"gpus_per_client": (0.5,)}, "1 numbers for 8 clients"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(
    ray: FakeRay, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        RayGrid(Setting().app, **{"num_clients": CLIENTS, **settings})


def test_actors_reserve_their_shares(ray: FakeRay) -> None:
    RayGrid(Setting().app, num_clients=CLIENTS, actors=4, gpus_per_client=0.5, cpus_per_client=2)
    assert ray.reserved == [{"max_restarts": 0, "num_cpus": 2, "num_gpus": 0.5}] * 4
