"""The fast path against the message path, bit for bit, and when it must not be taken."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import FedAvg

from fedstrategies import threads
from fedstrategies.compressors import CompK, RandK, TopK, parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.engines.session import InProcessSession
from fedstrategies.flower import Diverged, RoundRecord, client_app
from fedstrategies.objectives import L1
from fedstrategies.sampling import NiceSampling
from tests.flower.conftest import CLIENTS, DIMENSION, Setting


@pytest.fixture
def setting() -> Setting:
    return Setting()


class Keep:
    """A callback that keeps every record."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []
        self.ended = False

    def on_start(self, x: torch.Tensor) -> None:
        self.start = x.clone()

    def on_round(self, record: RoundRecord) -> bool | None:
        self.records.append(record)
        return None

    def on_end(self) -> None:
        self.ended = True


METHODS: dict[str, Any] = {
    "efbv-comp": lambda s: EFBV(compressor=CompK(k=2, k_prime=6), smoothness=s, seed=3),
    "efbv-rand-gradient": lambda s: EFBV(
        compressor=RandK(k=2), smoothness=s, shift_init="gradient"
    ),
    "ef21-top": lambda s: EF21(compressor=TopK(k=3), smoothness=s, prox=L1(0.01)),
    "diana-natural": lambda s: DIANA(compressor=parse_compressor("natural"), smoothness=s),
    "efbv-qsgd": lambda s: EFBV(compressor=parse_compressor("qsgd:levels=4"), smoothness=s),
    "efbv-cast": lambda s: EFBV(
        compressor=parse_compressor("top-k:k=4+cast:float16"), smoothness=s
    ),
    "efbv-4-of-8": lambda s: EFBV(
        compressor=TopK(k=3), smoothness=s, sampling=NiceSampling(cohort_size=4)
    ),
    "efbv-4-of-8-gradient": lambda s: EFBV(
        compressor=TopK(k=3),
        smoothness=s,
        sampling=NiceSampling(cohort_size=4),
        shift_init="gradient",
    ),
    "gd": lambda s: GradientDescent(smoothness=s),
}


def run(setting: Setting, make: Any, rounds: int = 15, **grid: Any) -> tuple[EFBV, Keep, Any]:
    strategy = make(setting.smoothness)
    keep = Keep()
    result = strategy.start(
        CohortGrid(setting.app, num_clients=CLIENTS, **grid),
        setting.start,
        num_rounds=rounds,
        callbacks=[keep],
    )
    return strategy, keep, result


@pytest.mark.parametrize("method", METHODS)
def test_fast_path_message_path_and_serialised_messages_agree_bit_for_bit(
    setting: Setting, method: str
) -> None:
    make = METHODS[method]
    fast, fast_records, fast_result = run(setting, make, rounds=8, fast="require")
    slow, slow_records, slow_result = run(setting, make, rounds=8, fast="never")
    wire, wire_records, _ = run(setting, make, rounds=8, fast="never", serialize=True)
    for other, records in ((slow, slow_records), (wire, wire_records)):
        assert torch.equal(fast.h, other.h)
        assert fast.memory is not None
        assert other.memory is not None
        assert fast.memory.keys() == other.memory.keys()
        for name, value in fast.memory.items():
            assert torch.equal(value, other.memory[name])
        for ours, theirs in zip(fast_records.records, records.records, strict=True):
            assert torch.equal(ours.x, theirs.x)
            assert ours.uplink_bytes == theirs.uplink_bytes
            assert ours.downlink_bytes == theirs.downlink_bytes
            assert ours.participants == theirs.participants
            assert ours.recovery_bytes == theirs.recovery_bytes == 0
    for t, metrics in fast_result.train_metrics_clientapp.items():
        theirs = slow_result.train_metrics_clientapp[t]["loss"]
        assert metrics["loss"] == pytest.approx(theirs, rel=1e-14)
    assert fast_records.ended


def test_fast_then_messages_then_fast_on_one_grid(setting: Setting) -> None:
    make = METHODS["efbv-rand-gradient"]
    straight, _, _ = run(setting, make, rounds=12, fast="require")
    strategy = make(setting.smoothness)
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    arrays = setting.start
    for fast in ("require", "never", "require"):
        grid.fast = fast  # type: ignore[assignment]
        arrays = strategy.start(grid, arrays, num_rounds=4).arrays
    assert torch.equal(straight.x, strategy.x)
    assert strategy.bytes.recovery == 0


def test_twice_the_same_answer_and_another_seed_another(setting: Setting) -> None:
    make = METHODS["efbv-comp"]
    once, _, _ = run(setting, make)
    again, _, _ = run(setting, make)
    assert torch.equal(once.x, again.x)
    other, _, _ = run(setting, lambda s: EFBV(compressor=CompK(k=2, k_prime=6), smoothness=s))
    assert not torch.equal(once.x, other.x)


def test_all_four_fields_of_the_result(setting: Setting) -> None:
    strategy = METHODS["ef21-top"](setting.smoothness)
    result = strategy.start(
        CohortGrid(setting.app, num_clients=CLIENTS),
        setting.start,
        num_rounds=3,
        evaluate_fn=lambda t, arrays: MetricRecord({"norm": float(arrays["weight"].numpy().sum())}),
    )
    assert np.array_equal(result.arrays["weight"].numpy(), strategy.x.numpy())
    assert set(result.train_metrics_clientapp) == {1, 2, 3}
    assert set(result.evaluate_metrics_clientapp) == {1, 2, 3}
    assert set(result.evaluate_metrics_clientapp[3]) == {"loss", "accuracy"}
    assert set(result.evaluate_metrics_serverapp) == {0, 1, 2, 3}
    values = setting.batch.values(strategy.x)
    weights = setting.batch.num_examples / setting.batch.num_examples.sum()
    expected = float((values * weights).sum())
    assert result.evaluate_metrics_clientapp[3]["loss"] == pytest.approx(expected, rel=1e-12)


def passing_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    return call_next(message, context)


class OwnFit(EFBVClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return super().fit(parameters, config)


class OwnAggregation(EFBV):
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, replies)


class OwnCompressor(EFBVClient):
    def __init__(self, context: Context, **rest: Any) -> None:
        super().__init__(context, compressor=LoudTopK(k=3), **rest)


class OwnGrid(CohortGrid):
    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        return super().send_and_receive(messages, timeout=timeout)


class LoudTopK(TopK):
    """Another class under the same spec."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("mods", "mods"),
        ("fit", "client 3 overrides fit"),
        ("aggregate", "strategy overrides aggregate_train"),
        ("rule", "rule of client 3 differs"),
        ("budget", "memory_budget"),
        ("metrics", "train_metrics_aggr_fn"),
        ("plain-app", "fedstrategies.client_app"),
        ("weight", "weighted_by_key"),
        ("grid", "grid overrides send_and_receive"),
    ],
)
def test_the_fast_path_is_refused_where_it_would_skip_something(
    setting: Setting, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def client(context: Context) -> EFBVClient:
        kinds = {"fit": OwnFit, "rule": OwnCompressor}
        index = int(context.node_config["partition-id"])
        kind = kinds.get(change, EFBVClient) if index == 3 else EFBVClient
        return kind(context, objective=setting.objectives[index])

    app: ClientApp = client_app(client, mods=[passing_mod] if change == "mods" else [])
    if change == "plain-app":
        app = ClientApp()
        app.train()(lambda message, context: client(context).train(message, context))
        app.evaluate()(lambda message, context: client(context).evaluate(message, context))
        app.query()(lambda message, context: client(context).query(message, context))
    settings: dict[str, Any] = {"compressor": TopK(k=3), "smoothness": setting.smoothness}
    if change == "budget":
        settings["memory_budget"] = 0
    if change == "metrics":
        settings["train_metrics_aggr_fn"] = lambda contents, key: MetricRecord({"n": len(contents)})
    if change == "weight":
        settings["weighted_by_key"] = "loss"
    kind = OwnAggregation if change == "aggregate" else EFBV
    grid_kind = OwnGrid if change == "grid" else CohortGrid
    with pytest.raises(ValueError, match=reason):
        kind(**settings).start(
            grid_kind(app, num_clients=CLIENTS, fast="require"), setting.start, num_rounds=2
        )
    caplog.set_level(logging.INFO, logger="flwr")
    logging.getLogger("flwr").propagate = True
    strategy = kind(**settings)
    strategy.start(grid_kind(app, num_clients=CLIENTS), setting.start, num_rounds=2)
    assert reason in caplog.text
    plain, _, _ = run(
        setting, lambda s: EFBV(compressor=TopK(k=3), smoothness=s), rounds=2, fast="require"
    )
    assert torch.equal(strategy.x, plain.x)


def test_a_second_strategy_on_a_used_grid_restores_the_memories(setting: Setting) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    make = METHODS["ef21-top"]
    make(setting.smoothness).start(grid, setting.start, num_rounds=3)
    second = make(setting.smoothness)
    second.start(grid, setting.start, num_rounds=5)
    assert second.bytes.recovery > 0
    assert second.memory is not None
    assert (second.h - second.memory["h"].mean(dim=0)).abs().max() < 1e-12


def test_divergence_names_the_round(setting: Setting) -> None:
    strategy = EFBV(compressor=RandK(k=1), stepsize=1e300, fraction_evaluate=0.0)
    with pytest.raises((Diverged, RuntimeError), match="round"):
        strategy.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=50)


def test_any_strategy_and_any_app_run_on_the_grid() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        moved = ArrayRecord([value + context.node_id for value in arrays.to_numpy_ndarrays()])
        content = type(message.content)(
            {"arrays": moved, "metrics": MetricRecord({"num-examples": 1})}
        )
        return Message(content, reply_to=message)

    result = FedAvg(fraction_evaluate=0.0).start(
        CohortGrid(app, num_clients=3, serialize=True),
        ArrayRecord([np.zeros(2)]),
        num_rounds=1,
    )
    assert result.arrays.to_numpy_ndarrays()[0] == pytest.approx([1002.0, 1002.0])


def test_a_raising_client_leaves_no_trace_in_its_state(setting: Setting) -> None:
    class Clumsy(EFBVClient):
        def fit(self, parameters: Any, config: Any) -> Any:
            super().fit(parameters, config)
            raise RuntimeError("after the state was saved")

    app = client_app(
        lambda context: Clumsy(
            context, objective=setting.objectives[int(context.node_config["partition-id"])]
        )
    )
    grid = CohortGrid(app, num_clients=CLIENTS)
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    with pytest.raises(RuntimeError, match="after the state was saved"):
        strategy.start(grid, setting.start, num_rounds=1)
    assert all(len(context.state) == 0 for context in grid.contexts.values())


def test_what_a_client_that_raises_changed_in_place_is_forgotten() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state = context.state
        if "mine" not in state:
            state["mine"] = MetricRecord({"n": 0, "all": [0]})
            state["arrays"] = ArrayRecord([np.zeros(2)])
        mine = state.metric_records["mine"]
        mine["n"] += 1  # type: ignore[operator]
        mine["all"].append(mine["n"])  # type: ignore[union-attr, arg-type]
        state.array_records["arrays"]["0"] = Array(np.full(2, mine["n"]))
        if mine["n"] == 2:
            raise RuntimeError("out of luck")
        return Message(RecordDict(), reply_to=message)

    grid = CohortGrid(app, num_clients=1)
    (node,) = grid.get_node_ids()
    for _ in range(3):
        message = Message(RecordDict(), dst_node_id=node, message_type="train")
        list(grid.send_and_receive([message]))
    state = grid.contexts[node].state
    assert state["mine"] == MetricRecord({"n": 1, "all": [0, 1]})
    assert state.array_records["arrays"]["0"].numpy().tolist() == [1, 1]


def test_messages_from_several_threads_take_turns() -> None:
    """As Flower's older loop sends them; see the lock of `CohortGrid`."""
    at_work, most = [0], [0]
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.005)
        at_work[0] -= 1
        return Message(RecordDict(), reply_to=message)

    grid = CohortGrid(app, num_clients=6)

    def ask(node: int) -> int:
        message = Message(RecordDict(), dst_node_id=node, message_type="train")
        (reply,) = grid.send_and_receive([message])
        return reply.metadata.src_node_id

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, grid.get_node_ids())) == list(grid.get_node_ids())
    assert most == [1]


def test_one_client_is_enough_when_it_is_all_there_is(setting: Setting) -> None:
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness, num_clients=1)
    strategy.start(CohortGrid(setting.app, num_clients=1), setting.start, num_rounds=2)
    assert strategy.clients == 1
    waiting = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    with pytest.raises(ValueError, match="2 nodes are required"):
        waiting.start(CohortGrid(setting.app, num_clients=1), setting.start, num_rounds=2)


class Ended:
    """A callback that notes its end, and fails there or in a round where told to."""

    def __init__(self, ended: list[str], *, fails: str = "") -> None:
        self.ended, self.fails = ended, fails

    def on_start(self, x: torch.Tensor) -> None:
        pass

    def on_round(self, record: RoundRecord) -> bool | None:
        if "round" in self.fails:
            raise LookupError("the user's own")
        return None

    def on_end(self) -> None:
        self.ended.append("ended")
        if "end" in self.fails:
            raise ArithmeticError("no end")


@pytest.mark.parametrize(
    ("fails", "flush", "raised", "logged"),
    [
        ("", True, OSError, []),
        ("end", False, ArithmeticError, []),
        ("end", True, OSError, ["no end"]),
        ("round", True, LookupError, ["no space"]),
        ("round end", True, LookupError, ["no space", "no end"]),
    ],
)
def test_whatever_fails_at_the_end_threads_come_back_and_every_callback_ends(
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails: str,
    flush: bool,
    raised: type[Exception],
    logged: list[str],
) -> None:
    def full(session: InProcessSession, strategy: EFBV) -> None:
        raise OSError("no space")

    if flush:
        monkeypatch.setattr(InProcessSession, "flush", full)
    logging.getLogger("flwr").propagate = True
    open_contexts, ended = threads._process.depth, list[str]()
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness, fraction_evaluate=0.0)
    with pytest.raises(raised):
        strategy.start(
            CohortGrid(setting.app, num_clients=CLIENTS, fast="require"),
            setting.start,
            num_rounds=1,
            callbacks=[Ended(ended, fails=fails), Ended(ended)],
        )
    assert ended == ["ended", "ended"]
    assert threads._process.depth == open_contexts
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [word for word in logged if word in caplog.text] == logged
    assert len(errors) == len(logged)
    assert all(record.exc_info and record.exc_info[2] for record in errors)


def test_a_session_that_does_not_begin_keeps_no_threads(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    monkeypatch.setattr(CohortGrid, "clients", property(lambda self: [][0]))
    open_contexts = threads._process.depth
    with pytest.raises(IndexError) as caught:
        InProcessSession(grid, METHODS["gd"](setting.smoothness))
    assert caught.tb  # which keeps alive what was half made
    assert threads._process.depth == open_contexts


def test_frames_have_the_length_that_is_counted(setting: Setting) -> None:
    _, keep, _ = run(setting, METHODS["gd"], rounds=1, fast="require")
    frame = 16 + 8 * DIMENSION
    control = keep.records[0].uplink_bytes // CLIENTS - frame
    assert 0 < control < 40
