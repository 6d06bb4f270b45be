"""Compressed updates around Flower's strategies: what they see; nothing desynchronises."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    Krum,
)

from fedstrategies import (
    EF21,
    CohortGrid,
    Compressed,
    CompressionMod,
    Identity,
    Natural,
    RandK,
    TopK,
    parse_compressor,
)
from fedstrategies.compressors import Compressor
from fedstrategies.flower import AllClientsFailed
from fedstrategies.flower.compression_mod import memory_step
from fedstrategies.flower.private import serialised_size
from fedstrategies.flower.records import load_memory, load_receipts
from fedstrategies.wire import decode
from tests.flower.faults import Faults, FaultyGrid
from tests.flower.outage import Outage

CLIENTS, WIDTH = 4, 8
D = WIDTH + 4  # the statistics of batch normalisation, and the counter, are not compressed


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Flower's lines for every round cost a third of the time of these tests."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def targets() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CLIENTS, D))


def start() -> ArrayRecord:
    return ArrayRecord(
        {
            "hidden.weight": Array(np.zeros((4, WIDTH // 4))),
            "norm.running_var": Array(np.ones(4)),
            "norm.num_batches_tracked": Array(np.asarray(0)),
            "hidden.bias": Array(np.zeros(4)),
        }
    )


def trained(message: Message, context: Context, steps: int = 5) -> Message:
    """Gradient steps on ||x - b_i||^2 / 2, as somebody's app that knows nothing of compression."""
    b = targets()[int(context.node_config["partition-id"])]
    record = message.content["arrays"]
    assert isinstance(record, ArrayRecord)
    weight, bias = record["hidden.weight"].numpy(), record["hidden.bias"].numpy()
    for _ in range(steps):
        weight -= 0.1 * (weight - b[:WIDTH].reshape(weight.shape))
        bias -= 0.1 * (bias - b[WIDTH:])
    context.state["seen"] = ConfigRecord({"rounds": _seen(context) + 1})
    arrays = ArrayRecord(
        {
            "hidden.weight": Array(weight),
            "norm.running_var": Array(record["norm.running_var"].numpy() + 0.25),
            "norm.num_batches_tracked": Array(
                np.asarray(record["norm.num_batches_tracked"].numpy() + 2)
            ),
            "hidden.bias": Array(bias),
        }
    )
    metrics = MetricRecord({"num-examples": 10, "loss": float(((weight - 1) ** 2).sum())})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _seen(context: Context) -> int:
    record = context.state.get("seen", {"rounds": 0})
    return int(record["rounds"])  # type: ignore[call-overload,index]


def app(*mods: Any) -> ClientApp:
    made = ClientApp(mods=list(mods))
    made.train()(trained)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        (record,) = message.content.array_records.values()
        assert list(record) == list(start())
        assert set(message.content) == {"arrays", "config"}
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 1.0})}),
            reply_to=message,
        )

    return made


def faulty(*mods: Any, faults: Faults | None = None, seed: int = 0) -> FaultyGrid:
    return FaultyGrid(app(*mods), num_clients=CLIENTS, faults=faults or Faults(), seed=seed)


def distance(arrays: ArrayRecord) -> float:
    """To the minimiser of the mean of the f_i, in the compressed coordinates."""
    found = np.concatenate([arrays["hidden.weight"].numpy().ravel(), arrays["hidden.bias"].numpy()])
    return float(np.linalg.norm(found - targets().mean(axis=0)))


def effective(grid: FaultyGrid, strategy: Compressed) -> dict[int, torch.Tensor]:
    """A client's memory, with its pending upload if the server used that."""
    found = {}
    for node, context in grid.contexts.items():
        receipts, stored = load_receipts(context.state), load_memory(context.state)
        copies = strategy._copies
        accepted = copies.ledger.accepted(copies.number(node))
        g = torch.zeros(1, D, dtype=torch.float64) if stored is None else stored["g"]
        if receipts.pending is not None and receipts.pending.tag == accepted:
            decode(receipts.pending.blob, dimension=D).add_to_(g, receipts.pending.constants[0])
        elif receipts.committed != accepted:
            g = strategy.memories[node][None].clone()  # lost: the copy is what will be restored
        found[node] = g[0]
    return found


def drive(strategy: Compressed, grid: FaultyGrid, arrays: ArrayRecord, rounds: int) -> ArrayRecord:
    """Upstream's loop, the copies compared with the clients' effective memories every round."""
    strategy.outermost = True
    for t in range(1, rounds + 1):
        requests = strategy.configure_train(t, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(t, grid.send_and_receive(requests))
        arrays = arrays if found is None else found
        memories = effective(grid, strategy)
        for node, copy in strategy.memories.items():
            assert torch.equal(copy, memories[node]), (t, node)
    return arrays


# -------------------------------------------------------------------- what the strategy sees


@pytest.mark.parametrize("make", [FedAvg, lambda **o: FedAdam(eta=0.05, **o), Krum])
def test_the_identity_changes_nothing_but_the_last_bit(make: Any) -> None:
    plain = make().start(CohortGrid(app(), num_clients=CLIENTS), start(), 4)
    strategy = Compressed(make())
    grid = CohortGrid(app(CompressionMod(Identity())), num_clients=CLIENTS, serialize=True)
    result = strategy.start(grid, start(), 4)
    assert list(result.arrays) == list(plain.arrays)
    for name, array in plain.arrays.items():
        found, there = result.arrays[name].numpy(), array.numpy()
        if found.dtype.kind == "i":
            there = np.rint(there)  # Flower's means make floats of integers
        assert np.allclose(found, there, rtol=1e-12, atol=1e-12)
    assert result.train_metrics_clientapp[1] == plain.train_metrics_clientapp[1]
    assert result.evaluate_metrics_clientapp == plain.evaluate_metrics_clientapp
    assert {_seen(context) for context in grid.contexts.values()} == {4}


@pytest.mark.parametrize(
    ("compressor", "memory"),
    [
        (TopK(k=3), True),
        (RandK(k=6), True),
        (parse_compressor("top-k:k=5+natural"), True),
    ],
    ids=lambda value: getattr(value, "spec", str(value)),
)
def test_with_a_memory_it_comes_to_the_optimum(compressor: Compressor, memory: bool) -> None:
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    grid = faulty(CompressionMod(compressor, memory=memory))
    arrays = drive(strategy, grid, start(), 22)
    assert distance(arrays) < 5e-3
    assert strategy.failures == ()
    assert strategy.bytes.recovery == 0


def test_unbiased_without_memory_comes_near_and_biased_does_not_come() -> None:
    def after(compressor: Compressor) -> float:
        strategy = Compressed(FedAvg(fraction_evaluate=0.0))
        result = strategy.start(faulty(CompressionMod(compressor, memory=False)), start(), 10)
        assert strategy.memories == {}
        return distance(result.arrays)

    assert after(Natural()) < 0.3
    assert after(TopK(k=2)) > 0.6


def test_integers_and_statistics_travel_as_they_are_and_keep_their_type() -> None:
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    arrays = drive(strategy, faulty(CompressionMod(TopK(k=2))), start(), 3)
    assert arrays["norm.num_batches_tracked"].numpy() == 6
    assert arrays["norm.num_batches_tracked"].dtype == "int64"
    assert np.allclose(arrays["norm.running_var"].numpy(), 1.75)
    assert arrays["hidden.weight"].dtype == "float64"
    assert list(arrays) == list(start())


def test_memory_step_is_1_for_a_contraction_and_that_of_ef_bv_else() -> None:
    assert memory_step(TopK(k=1).constants(10)) == 1.0
    assert memory_step(Natural().constants(10)) == 1.0
    omega = RandK(k=2).constants(10).omega
    assert memory_step(RandK(k=2).constants(10)) == pytest.approx(1 / (1 + omega))


# -------------------------------------------------------------------- exactly once


def test_thirty_percent_of_replies_lost_ends_where_no_loss_ends() -> None:
    def after(faults: Faults) -> tuple[float, FaultyGrid]:
        strategy = Compressed(FedAvg(fraction_evaluate=0.0))
        grid = faulty(CompressionMod(TopK(k=4)), faults=faults, seed=2)
        arrays = drive(strategy, grid, start(), 12)
        grid.faults = Faults()
        return distance(drive(strategy, grid, arrays, 16)), grid

    clean, _ = after(Faults())
    lossy, grid = after(Faults(lose_reply=0.3))
    assert grid.happened["lose_reply"] > 0.15 * 12 * CLIENTS
    assert lossy < 5e-3
    assert clean < 5e-3


def test_mixed_faults_never_desynchronise() -> None:
    faults = Faults(
        lose_request=0.05,
        lose_reply=0.2,
        delay_reply=0.08,
        duplicate_reply=0.1,
        redeliver_request=0.1,
        corrupt_reply=0.05,
        wipe_state=0.02,
        crash_after_commit=0.03,
    )
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    grid = faulty(CompressionMod(TopK(k=4)), faults=faults, seed=1)
    arrays = drive(strategy, grid, start(), 30)
    assert all(grid.happened[name] > 0 for name, share in vars(faults).items() if share)
    assert strategy.bytes.recovery > 0
    grid.faults = Faults()
    assert distance(drive(strategy, grid, arrays, 20)) < 5e-3
    assert strategy.failures == ()


@pytest.mark.parametrize("code", [ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED])
def test_an_outage_of_all_nodes_costs_rounds_and_not_the_run(code: int) -> None:
    def run(exchanges: int, rounds: int) -> tuple[Compressed, ArrayRecord]:
        strategy = Compressed(FedAvg(fraction_evaluate=0.0))
        grid = Outage(
            app(CompressionMod(TopK(k=4))), num_clients=CLIENTS, code=code, exchanges=exchanges
        )
        return strategy, strategy.start(grid, start(), rounds).arrays

    strategy, arrays = run(4, 12)
    _, whole = run(0, 8)
    # The rounds without clients leave the model and all memories as they were; draws go on.
    assert strategy.outages == 0
    assert distance(arrays) == pytest.approx(distance(whole), rel=1e-6)
    with pytest.raises(
        AllClientsFailed, match=r"none of the \d+ clients.*5 rounds.*the actor died"
    ):
        run(5, 12)


def test_an_error_of_the_app_s_own_in_all_replies_ends_the_run_at_once() -> None:
    code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
    grid = Outage(app(CompressionMod(TopK(k=4))), num_clients=CLIENTS, code=code, exchanges=1)
    with pytest.raises(AllClientsFailed, match="clients failed"):
        Compressed(FedAvg(fraction_evaluate=0.0)).start(grid, start(), 3)


def test_a_request_that_comes_twice_is_answered_with_the_same_bytes_and_trained_once() -> None:
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    strategy.outermost = True
    grid = faulty(CompressionMod(TopK(k=4)))
    request, *_ = strategy.configure_train(1, start(), ConfigRecord(), grid)
    node = request.metadata.dst_node_id
    first, again = grid.execute(request, node), grid.execute(request, node)
    assert not first.has_error()
    assert first.content == again.content
    assert _seen(grid.contexts[node]) == 1
    later = strategy.configure_train(2, start(), ConfigRecord(), grid)
    (newer,) = (one for one in later if one.metadata.dst_node_id == node)
    grid.execute(newer, node)
    assert set(grid.execute(request, node).content) == {"fedstrategies"}  # stale


def test_draws_do_not_depend_on_the_order_in_which_nodes_are_drawn() -> None:
    def model(seed: int) -> Any:
        random.seed(seed)
        strategy = Compressed(FedAvg(fraction_evaluate=0.0))
        return drive(strategy, faulty(CompressionMod(RandK(k=4))), start(), 3)["hidden.bias"]

    assert model(0) == model(1) == model(2)


def test_a_node_that_joins_later_starts_from_zero() -> None:
    grid = CohortGrid(app(CompressionMod(TopK(k=4))), num_clients=CLIENTS)
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    strategy.outermost = True
    late = list(grid.get_node_ids())[-1]
    everyone = dict(grid.contexts)
    grid.contexts = {node: c for node, c in everyone.items() if node != late}
    arrays: ArrayRecord | None = start()
    for t in range(1, 6):
        if t == 3:
            grid.contexts = {**grid.contexts, late: everyone[late]}
        assert arrays is not None
        requests = strategy.configure_train(t, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(t, grid.send_and_receive(requests))
        assert strategy.failures == ()
    assert len(strategy.memories) == CLIENTS


# -------------------------------------------------------------------- bytes


def test_bytes_are_those_of_frames_and_fields_and_messages_shrink_as_they_say() -> None:
    big = ArrayRecord({"weight": Array(np.zeros(20_000, dtype=np.float32))})
    draw = np.random.default_rng(3)
    sizes: dict[str, list[int]] = {"plain": [], "compressed": []}

    class Weighed(CohortGrid):
        label = "plain"

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            replies = list(super().send_and_receive(messages, timeout=timeout))
            sizes[self.label] += [serialised_size(reply) for reply in replies]
            return replies

    def large(*mods: Any) -> ClientApp:
        made = ClientApp(mods=list(mods))

        @made.train()
        def train(message: Message, context: Context) -> Message:
            moved = draw.standard_normal(20_000).astype(np.float32)
            content = RecordDict(
                {
                    "arrays": ArrayRecord({"weight": Array(moved)}),
                    "metrics": MetricRecord({"num-examples": 1}),
                }
            )
            return Message(content, reply_to=message)

        return made

    FedAvg(fraction_evaluate=0.0).start(Weighed(large(), num_clients=2), big, 2)
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    grid = Weighed(large(CompressionMod(TopK(fraction=0.01))), num_clients=2)
    grid.label = "compressed"
    strategy.start(grid, big, 2)
    plain, compressed = (sum(sizes[key]) for key in ("plain", "compressed"))
    entropy = math.log2(math.comb(20_000, 200)) / 8
    frames = 4 * (1.02 * (entropy + 200 * 4) + 24)
    assert 4 * (entropy + 800) < strategy.bytes.uplink < frames + 4 * (26 + 8)
    assert strategy.bytes.downlink == 4 * (len(big["weight"].data) + 53)
    assert plain > 40 * compressed
    # What Flower puts around it: a few hundred bytes a message, and no more.
    assert 0 < compressed - strategy.bytes.uplink < 4 * 1200


# -------------------------------------------------------------------- differential privacy


def private(wrapper: Any, **options: Any) -> Any:
    settings = {"noise_multiplier": 0.0, "num_sampled_clients": CLIENTS, **options}
    return wrapper(FedAvg(fraction_evaluate=0.0), **settings)


def plain_start() -> ArrayRecord:
    return ArrayRecord({"weight": Array(np.zeros(D))})


def plain_app(*mods: Any) -> ClientApp:
    made = ClientApp(mods=list(mods))

    @made.train()
    def train(message: Message, context: Context) -> Message:
        b = targets()[int(context.node_config["partition-id"])]
        x = message.content.array_records["arrays"]["weight"].numpy()
        content = RecordDict(
            {
                "arrays": ArrayRecord({"weight": Array(x + 0.5 * (b - x))}),
                "metrics": MetricRecord({"num-examples": 10}),
            }
        )
        return Message(content, reply_to=message)

    return made


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: private(DifferentialPrivacyServerSideFixedClipping, clipping_norm=0.5),
        lambda: private(DifferentialPrivacyServerSideAdaptiveClipping, initial_clipping_norm=0.5),
    ],
)
def test_server_side_clipping_clips_what_was_decoded(strategy: Any) -> None:
    wrapped = Compressed(strategy())
    grid = CohortGrid(plain_app(CompressionMod(TopK(k=4))), num_clients=CLIENTS)
    arrays = plain_start()
    wrapped.outermost = True
    for t in range(1, 4):
        requests = wrapped.configure_train(t, arrays, ConfigRecord(), grid)
        norm = wrapped.strategy.clipping_norm  # type: ignore[attr-defined]
        found, _ = wrapped.aggregate_train(t, grid.send_and_receive(requests))
        assert found is not None
        moved = found["weight"].numpy() - arrays["weight"].numpy()
        assert 0 < np.linalg.norm(moved) <= norm * (1 + 1e-12)
        arrays = found
    assert max(float(g.norm()) for g in wrapped.memories.values()) > 0.5


@pytest.mark.parametrize(
    ("strategy", "mod"),
    [
        (
            lambda: private(DifferentialPrivacyClientSideFixedClipping, clipping_norm=0.5),
            fixedclipping_mod,
        ),
        (
            lambda: private(
                DifferentialPrivacyClientSideAdaptiveClipping, initial_clipping_norm=0.5
            ),
            adaptiveclipping_mod,
        ),
    ],
)
def test_client_side_clipping_goes_with_operators_that_only_drop(strategy: Any, mod: Any) -> None:
    def run(*mods: Any) -> ArrayRecord:
        grid = CohortGrid(plain_app(*mods), num_clients=CLIENTS)
        return Compressed(strategy()).start(grid, plain_start(), 2).arrays

    arrays = run(CompressionMod(TopK(k=4), memory=False), mod)
    assert 0 < np.linalg.norm(arrays["weight"].numpy()) <= 2 * 0.5 * math.e
    with pytest.raises(AllClientsFailed, match="a memory adds to an update"):
        run(CompressionMod(TopK(k=4)), mod)
    with pytest.raises(AllClientsFailed, match="rand-k:k=4 can make a vector longer"):
        run(CompressionMod(RandK(k=4), memory=False), mod)
    with pytest.raises(AllClientsFailed, match="CompressionMod is the first of them"):
        run(mod, CompressionMod(TopK(k=4), memory=False))


def test_local_noise_comes_before_compression() -> None:
    noise = LocalDpMod(clipping_norm=1.0, sensitivity=0.1, epsilon=1.0, delta=1e-5)

    def run(*mods: Any) -> ArrayRecord:
        grid = CohortGrid(plain_app(*mods), num_clients=CLIENTS)
        return Compressed(FedAvg(fraction_evaluate=0.0)).start(grid, plain_start(), 3).arrays

    assert np.linalg.norm(run(CompressionMod(TopK(k=4)), noise)["weight"].numpy()) > 0
    with pytest.raises(AllClientsFailed, match="CompressionMod is the first of them"):
        run(noise, CompressionMod(TopK(k=4)))


# -------------------------------------------------------------------- refusals


def test_wrong_nesting_is_refused_with_the_right_one() -> None:
    inner = Compressed(FedAvg(fraction_evaluate=0.0))
    wrapper = DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, CLIENTS)
    with pytest.raises(ValueError, match=r"write Compressed\(DifferentialPrivacyServer"):
        Compressed(wrapper)
    grid = CohortGrid(plain_app(CompressionMod(TopK(k=4))), num_clients=CLIENTS)
    with pytest.raises(ValueError, match="not the outermost strategy"):
        wrapper.start(grid, plain_start(), 1)
    with pytest.raises(ValueError, match="Compressed already"):
        Compressed(inner)
    with pytest.raises(ValueError, match="EF21 sends compressed messages by itself"):
        Compressed(EF21(compressor=TopK(k=3), stepsize=0.1))
    with pytest.raises(ValueError, match=r"no flwr\.serverapp\.strategy\.Strategy"):
        Compressed("fedavg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no Compressor"):
        CompressionMod("top-k")  # type: ignore[arg-type]


def test_one_half_without_the_other_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AllClientsFailed, match="give the ClientApp of this node CompressionMod"):
        Compressed(FedAvg()).start(CohortGrid(plain_app(), num_clients=2), plain_start(), 1)
    grid = CohortGrid(plain_app(CompressionMod(TopK(k=4))), num_clients=2)
    with caplog.at_level(logging.INFO, logger="flwr"):
        FedAvg(fraction_evaluate=0.0).start(grid, plain_start(), 1)
    assert "wrap the strategy on the server: Compressed(strategy)" in caplog.text


def answer(reply: Message, **changed: Any) -> Message:
    content = RecordDict({**reply.content, **changed})
    return Message(content, metadata=reply.metadata)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: {"arrays": ArrayRecord({**c["arrays"], "extra": Array(np.zeros(1))})}, "extra"),
        (
            lambda c: {"arrays": ArrayRecord({"fedstrategies": c["arrays"]["fedstrategies"]})},
            "came",
        ),
        (lambda c: {"more": ArrayRecord()}, "2 ArrayRecords"),
        (lambda c: {"arrays": ArrayRecord({})}, "too few"),
        (
            lambda c: {
                "fedstrategies": ConfigRecord(
                    {**c["fedstrategies"], "fedstrategies.step": b"\0" * 6 + b"\xf8\x7f"}
                )
            },
            "expected one number from 0 to 1",
        ),
        (
            lambda c: {
                "fedstrategies": ConfigRecord({**c["fedstrategies"], "fedstrategies": b"x"})
            },
            "1 control bytes",
        ),
    ],
)
def test_a_forged_reply_is_its_sender_s_failure_and_the_others_count(
    change: Any, reason: str
) -> None:
    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    strategy.outermost = True
    grid = faulty(CompressionMod(TopK(k=4)))
    requests = strategy.configure_train(1, start(), ConfigRecord(), grid)
    first, *others = grid.send_and_receive(requests)
    found, _ = strategy.aggregate_train(1, [answer(first, **change(first.content)), *others])
    assert found is not None
    (line,) = strategy.failures
    assert reason in line
    assert len(strategy.memories) == CLIENTS - 1


def test_training_that_is_not_finite_stays_on_the_node() -> None:
    def diverged(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        (record,) = reply.content.array_records.values()
        record["weight"] = Array(np.full(D, np.nan))
        return reply

    grid = CohortGrid(plain_app(CompressionMod(TopK(k=4)), diverged), num_clients=2)
    with pytest.raises(AllClientsFailed, match="not finite"):
        Compressed(FedAvg(fraction_evaluate=0.0)).start(grid, plain_start(), 1)


def test_a_model_without_floats_is_refused() -> None:
    trees = ArrayRecord({"trees": Array(np.zeros(9, dtype=np.uint8))})
    with pytest.raises(ValueError, match="cannot be compressed"):
        Compressed(FedAvg()).start(CohortGrid(plain_app(), num_clients=2), trees, 1)
