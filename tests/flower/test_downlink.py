"""A compressed downlink: no client ever computes at another model than the server's w."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedstrategies.compressors import Floats, Identity, Payload, RandK, TopK, parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import RoundRecord, client_app
from fedstrategies.flower.broadcast import Broadcast
from fedstrategies.flower.control import Request
from fedstrategies.flower.edition import Edition
from fedstrategies.flower.errors import ProtocolError
from fedstrategies.flower.records import CONTROL, load_replica, replica_records
from fedstrategies.flower.replica import Replica, Route, checksum, rebuild
from fedstrategies.random import Purpose, client_keys
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import Scafflix
from fedstrategies.sppm import SPPM
from fedstrategies.wire import encode_vector
from tests.flower.conftest import CLIENTS, DIMENSION, Setting
from tests.flower.effective import effective_memories
from tests.flower.faults import Faults, FaultyGrid
from tests.flower.test_faults import MIXED
from tests.flower.test_faults import drive as drive_with_invariants

DENSE = len(encode_vector(torch.zeros(DIMENSION, dtype=torch.float64)))


class Keep:
    """A callback that keeps every record."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []

    def on_start(self, x: Tensor) -> None:
        self.records = []

    def on_round(self, record: RoundRecord) -> bool | None:
        self.records.append(record)
        return None

    def on_end(self) -> None:
        pass


class Spying:
    """The setting's clients, who tell at which model they computed, and for which attempt."""

    def __init__(self, setting: Setting) -> None:
        seen: list[tuple[int, Tensor]] = []
        asked: list[int] = []
        self.seen, self.asked, self.wanted = seen, asked, dict[int, Tensor]()

        class Client(EFBVClient):
            def _step(self, rule: Any, memory: Any, x: Tensor, key: int, config: Any) -> Any:
                seen.append((int(self.context.node_config["partition-id"]), x.clone()))
                asked.append(Request.from_bytes(config[CONTROL]).sequence)
                return super()._step(rule, memory, x, key, config)

        def build(context: Context) -> EFBVClient:
            index = int(context.node_config["partition-id"])
            return Client(context, objective=setting.objectives[index])

        self.app = client_app(build)


def attempt(strategy: EFBV, grid: CohortGrid, arrays: ArrayRecord, spying: Spying) -> ArrayRecord:
    """One attempt as upstream makes it; everyone who computes does so at his attempt's w."""
    spying.seen.clear()
    spying.asked.clear()
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert strategy._attempt is not None
    edition = strategy._attempt.edition
    replies = list(grid.send_and_receive(messages))
    assert edition is not None
    spying.wanted[strategy.ledger.sequence] = edition.w
    # An old request may be the first of its attempt to arrive, after a crash.
    for sequence, (_, x) in zip(spying.asked, spying.seen, strict=True):
        assert torch.equal(x, spying.wanted[sequence])
    found, _ = strategy.aggregate_train(1, replies)
    return arrays if found is None else found


def make(setting: Setting, **settings: Any) -> EFBV:
    usual: dict[str, Any] = {
        "compressor": TopK(k=3),
        "downlink": TopK(k=1),
        "stepsize": 0.05,
        "smoothness": setting.smoothness,
        "fraction_evaluate": 0,
    }
    return EFBV(**{**usual, **settings})


METHODS: dict[str, Any] = {
    "top-1": lambda s: make(s),
    "top-1-3-of-8": lambda s: make(s, sampling=NiceSampling(cohort_size=3)),
    "rand-2": lambda s: make(s, downlink=RandK(k=2)),
    "rand-2-3-of-8": lambda s: make(s, downlink=RandK(k=2), sampling=NiceSampling(cohort_size=3)),
    "natural-5-of-8": lambda s: make(
        s, downlink=parse_compressor("natural"), sampling=NiceSampling(cohort_size=5)
    ),
    "qsgd": lambda s: make(s, downlink=parse_compressor("qsgd:levels=4")),
    "gradient-shifts-3-of-8": lambda s: make(
        s, shift_init="gradient", sampling=NiceSampling(cohort_size=3)
    ),
    "theory": lambda s: EF21(
        compressor=TopK(k=3), downlink=TopK(k=4), smoothness=s.smoothness, fraction_evaluate=0
    ),
    "diana": lambda s: DIANA(
        compressor=RandK(k=6), downlink=RandK(k=6), smoothness=s.smoothness, fraction_evaluate=0
    ),
    "gd": lambda s: GradientDescent(
        downlink=TopK(k=4), smoothness=s.smoothness, fraction_evaluate=0
    ),
}


def run(setting: Setting, strategy: EFBV, rounds: int = 25, **grid: Any) -> list[RoundRecord]:
    keep = Keep()
    strategy.start(
        CohortGrid(setting.app, num_clients=CLIENTS, **grid),
        setting.start,
        num_rounds=rounds,
        callbacks=[keep],
    )
    return keep.records


@pytest.mark.parametrize("method", METHODS)
def test_bits_and_bytes_are_the_same_on_every_path(setting: Setting, method: str) -> None:
    fast = run(setting, METHODS[method](setting), fast="require")
    slow = run(setting, METHODS[method](setting), fast="never")
    wire = run(setting, METHODS[method](setting), fast="never", serialize=True)
    for ours, theirs, serialised in zip(fast, slow, wire, strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.x, serialised.x)
        # Everything but the model: counters and participants.
        assert replace(ours, x=None) == replace(theirs, x=None) == replace(serialised, x=None)  # type: ignore[arg-type]
        assert ours.recovery_bytes == 0
    dense = run(setting, make(setting, downlink=None), fast="require")
    if "of" not in method:
        assert fast[-1].downlink_bytes < dense[-1].downlink_bytes


@pytest.mark.parametrize("cohort", [None, 3])
def test_the_identity_is_no_compressor_at_all(setting: Setting, cohort: int | None) -> None:
    law = None if cohort is None else NiceSampling(cohort_size=cohort)
    plain = run(setting, make(setting, downlink=None, sampling=law))
    same = run(setting, make(setting, downlink=Identity(), sampling=law))
    for ours, theirs in zip(plain, same, strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert replace(ours, x=None) == replace(theirs, x=None)  # type: ignore[arg-type]


def test_the_first_contact_is_one_dense_frame_and_the_rest_differences(setting: Setting) -> None:
    strategy = make(setting, sampling=NiceSampling(cohort_size=3))
    spying = Spying(setting)
    grid = CohortGrid(spying.app, num_clients=CLIENTS, fast="never")
    met: dict[int, int] = {}
    arrays = setting.start
    for now in range(1, 16):
        messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        for message in messages:
            partition = grid.partitions[message.metadata.dst_node_id]
            frames = [array.data for array in message.content.array_records["arrays"].values()]
            (config,) = message.content.config_records.values()
            packed = config["fedstrategies.downlink"]
            assert isinstance(packed, bytes)
            route = Route.from_bytes(packed)
            missed = now - met.get(partition, -100)
            if missed <= 3:  # four steps of 19 + 4 bytes are no longer than the model
                assert len(route.numbers) - 1 == len(frames) == missed
                assert not route.whole
            if missed > 4:
                assert route.whole
                assert [len(frame) for frame in frames] == [DENSE]
            met[partition] = now
        found, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
        assert found is not None
        arrays = found
    assert len(met) == CLIENTS
    assert strategy.bytes.recovery == 0


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize("method", ["top-1", "top-1-3-of-8", "rand-2", "natural-5-of-8"])
def test_mixed_faults_never_make_a_client_compute_at_another_model(
    setting: Setting, method: str
) -> None:
    strategy, spying = METHODS[method](setting), Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=MIXED, seed=3)
    arrays = setting.start
    for _ in range(100):
        arrays = attempt(strategy, grid, arrays, spying)
        memories = effective_memories(grid, strategy)["h"]
        assert (strategy.h - memories.mean(dim=0)).abs().max() < 1e-12
    for name, probability in vars(MIXED).items():
        assert (grid.happened[name] > 0) == (probability > 0.0), name
    assert strategy.bytes.recovery > 0
    grid.faults = Faults()
    before = setting.gradient_norm(strategy.x)
    for _ in range(60):
        arrays = attempt(strategy, grid, arrays, spying)
    assert setting.gradient_norm(strategy.x) < before
    # What top-1 leaves out is sent later, so that w follows x.
    assert strategy.broadcast is not None
    assert strategy.broadcast.current is not None
    assert (strategy.broadcast.current.w - strategy.x).norm() < 0.1


def test_the_memory_invariants_of_the_shell_hold_beside_it(setting: Setting) -> None:
    strategy = make(setting)
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=MIXED, seed=1)
    drive_with_invariants(strategy, grid, setting.start, 60)


def test_lost_replies_cost_a_longer_path_and_no_recovery(setting: Setting) -> None:
    strategy, spying = make(setting), Spying(setting)
    grid = FaultyGrid(
        spying.app, num_clients=CLIENTS, faults=Faults(lose_reply=0.2, lose_request=0.1), seed=2
    )
    arrays = setting.start
    for _ in range(60):
        arrays = attempt(strategy, grid, arrays, spying)
    assert grid.happened["lose_reply"] > 20
    assert strategy.bytes.recovery == 0


def test_a_wiped_client_gets_memory_and_model_in_one_message(setting: Setting) -> None:
    strategy, spying = make(setting), Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=Faults())
    arrays = setting.start
    for _ in range(4):
        arrays = attempt(strategy, grid, arrays, spying)
    usual = strategy.bytes.downlink
    arrays = attempt(strategy, grid, arrays, spying)
    usual = strategy.bytes.downlink - usual
    grid.contexts[list(grid.contexts)[3]].state = RecordDict()
    arrays = attempt(strategy, grid, arrays, spying)
    assert [line for line in strategy.failures if "partition 3" in line and "lost" in line]
    assert 3 not in [partition for partition, _ in spying.seen]
    assert strategy.bytes.recovery == 0
    before = strategy.bytes.downlink
    arrays = attempt(strategy, grid, arrays, spying)
    assert strategy.failures == ()
    assert 3 in [partition for partition, _ in spying.seen]
    assert strategy.bytes.recovery == 2 * DENSE
    # The control fields of a path are one version longer than those of a whole model.
    (step,) = strategy.broadcast.current.steps[-1:]  # type: ignore[union-attr]
    assert strategy.bytes.downlink - before == usual - step.size - 4
    arrays = attempt(strategy, grid, arrays, spying)
    assert strategy.bytes.recovery == 2 * DENSE


@pytest.mark.parametrize("damage", ["gone", "other bits", "other session", "unknown version"])
def test_a_model_that_is_not_the_announced_one_is_lost_and_sent_whole(
    setting: Setting, damage: str
) -> None:
    strategy, spying = make(setting), Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=Faults())
    arrays = setting.start
    for _ in range(4):
        arrays = attempt(strategy, grid, arrays, spying)
    context = grid.contexts[list(grid.contexts)[5]]
    held = load_replica(context.state)
    assert held is not None
    if damage == "gone":
        for name in replica_records(held):
            del context.state[name]
    else:
        worse = {
            "other bits": replace(held, w=held.w + 1e-15 * (1 + held.w.abs())),
            "other session": replace(held, session=held.session - 1),
            "unknown version": replace(held, number=held.number + 7),
        }[damage]
        context.state.update(replica_records(worse))
    arrays = attempt(strategy, grid, arrays, spying)
    (failure,) = strategy.failures
    assert "partition 5" in failure
    assert failure.endswith("its copy of the model is lost; it will be sent whole next time")
    assert 5 not in [partition for partition, _ in spying.seen]
    assert strategy.bytes.recovery == 0
    arrays = attempt(strategy, grid, arrays, spying)
    assert strategy.failures == ()
    assert 5 in [partition for partition, _ in spying.seen]
    # The memory was never lost.
    assert strategy.bytes.recovery == DENSE


@dataclass
class Wiped:
    """What came of attempts before each of which one node was wiped."""

    strategy: EFBV
    spying: Spying
    grid: FaultyGrid
    arrays: ArrayRecord
    behind: list[int]


def forgetful(setting: Setting, attempts: int, **settings: Any) -> Wiped:
    """Gradient descent with node 3 wiped before every attempt; in which ones it was behind."""
    strategy = GradientDescent(
        downlink=TopK(k=4),
        smoothness=setting.smoothness,
        stepsize=0.05,
        fraction_evaluate=0,
        **settings,
    )
    spying = Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=Faults())
    found = Wiped(strategy, spying, grid, setting.start, [])
    for now in range(1, attempts + 1):
        grid.contexts[1004].state = RecordDict()
        found.arrays = attempt(strategy, grid, found.arrays, spying)
        if strategy.failures:
            (failure,) = strategy.failures
            assert "partition 3" in failure
            found.behind.append(now)
    return found


@pytest.mark.parametrize("on_failure", ["continue", "redo"])
def test_a_node_that_keeps_nothing_is_sent_the_model_whole(
    setting: Setting, on_failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="flwr")
    logging.getLogger("flwr").propagate = True
    run = forgetful(setting, 110, on_failure=on_failure)
    # Attempts 1 and 3 bring it whole, then 8, 16, 32 and 64 of them before one is tried without.
    assert run.behind == [2, 4, 13, 30, 63]
    rounds = 110 - (0 if on_failure == "continue" else len(run.behind))
    assert run.strategy.round == rounds
    whole = 110 - 1 - len(run.behind)
    assert run.strategy.bytes.recovery == whole * DENSE
    (line,) = [m for m in caplog.messages if "keeps no state between rounds" in m]
    assert line == (
        "partition 3 keeps no state between rounds: it is sent the whole model; leave the "
        "downlink dense if many do"
    )


def test_a_node_that_begins_to_keep_its_state_is_sent_differences_again(setting: Setting) -> None:
    run = forgetful(setting, 6)
    strategy, broadcast = run.strategy, run.strategy.broadcast
    assert run.behind == [2, 4]
    assert broadcast is not None
    costs = []
    for now in range(7, 20):
        # The server never takes it to hold what it may not hold.
        assert broadcast.held(3) == (0 if now < 13 else broadcast.held(4))
        before = strategy.bytes.recovery
        run.arrays = attempt(strategy, run.grid, run.arrays, run.spying)
        costs.append(strategy.bytes.recovery - before)
        assert strategy.failures == ()
    assert costs == [DENSE] * 6 + [0] * 7
    # All is forgotten with the first difference that it used.
    run.grid.contexts[1004].state = RecordDict()
    for _ in range(5):
        run.arrays = attempt(strategy, run.grid, run.arrays, run.spying)
    assert strategy.failures == ()
    assert strategy.bytes.recovery == (1 + 2 + 6 + 1) * DENSE


def test_the_fast_path_goes_on_with_a_node_that_keeps_nothing(setting: Setting) -> None:
    def finish(fast: Any) -> EFBV:
        found = forgetful(setting, 6)
        grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast)
        for mine, theirs in zip(grid.contexts, found.grid.contexts, strict=True):
            grid.contexts[mine].state = found.grid.contexts[theirs].state
        for rounds in (3, 9):
            result = found.strategy.start(grid, found.arrays, num_rounds=rounds)
            found.arrays = result.arrays
            assert found.strategy.failures == ()
        return found.strategy

    fast, slow = finish("require"), finish("never")
    assert torch.equal(fast.x, slow.x)
    assert fast.bytes == slow.bytes
    assert fast.bytes.recovery == (1 + 2 + 6) * DENSE


def test_above_the_memory_budget_a_reset_leaves_the_model_s_versions(setting: Setting) -> None:
    strategy, spying = make(setting, memory_budget=0), Spying(setting)
    grid = FaultyGrid(
        spying.app, num_clients=CLIENTS, faults=Faults(wipe_state=0.01, lose_reply=0.1), seed=4
    )
    arrays = setting.start
    for _ in range(80):
        arrays = attempt(strategy, grid, arrays, spying)
    assert grid.happened["wipe_state"] > 0
    assert strategy.round > 40
    assert strategy.bytes.recovery % DENSE == 0


def test_another_server_begins_with_whole_models(setting: Setting) -> None:
    spying = Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=Faults())
    first = make(setting)
    arrays = setting.start
    for _ in range(6):
        arrays = attempt(first, grid, arrays, spying)
    # The clients' memories are those of another run: one lost round restores them.
    second = make(setting)
    for _ in range(3):
        arrays = attempt(second, grid, arrays, spying)
    assert second.failures == ()
    assert {partition for partition, _ in spying.seen} == set(range(CLIENTS))


def test_an_old_request_leaves_everything_as_it_is(setting: Setting) -> None:
    strategy, spying = make(setting), Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=Faults())
    old: list[Message] = []
    deliver = grid.execute

    def noting(message: Message, node: int) -> Message:
        old.append(message)
        return deliver(message, node)

    grid.execute = noting  # type: ignore[method-assign]
    arrays = attempt(strategy, grid, setting.start, spying)
    grid.execute = deliver  # type: ignore[method-assign]
    assert len(old) == CLIENTS
    for _ in range(3):
        arrays = attempt(strategy, grid, arrays, spying)
    before = [load_replica(context.state) for context in grid.contexts.values()]
    for message in old:
        grid.execute(message, message.metadata.dst_node_id)
    after = [load_replica(context.state) for context in grid.contexts.values()]
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        assert (one.number, one.w.tolist()) == (other.number, other.w.tolist())
    attempt(strategy, grid, arrays, spying)
    assert strategy.failures == ()


@pytest.mark.parametrize("downlink", [TopK(k=2), RandK(k=3)])
def test_a_redone_round_sends_the_same_model(setting: Setting, downlink: Any) -> None:
    def finish(faults: Faults) -> EFBV:
        strategy = make(setting, downlink=downlink, on_failure="redo", seed=5)
        spying = Spying(setting)
        grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=faults, seed=2)
        arrays, proposed = setting.start, {}
        while strategy.round < 12:
            now = strategy.round + 1
            arrays = attempt(strategy, grid, arrays, spying)
            models = {x.numpy().tobytes() for _, x in spying.seen}
            assert models <= proposed.setdefault(now, models)
        assert strategy.bytes.recovery == 0
        return strategy

    clean = finish(Faults())
    faulty = finish(Faults(lose_reply=0.1, duplicate_reply=0.1, delay_reply=0.05))
    assert faulty.ledger.sequence > clean.ledger.sequence
    assert torch.equal(clean.x, faulty.x)
    assert clean.broadcast is not None
    assert faulty.broadcast is not None
    assert torch.equal(clean.broadcast.current.w, faulty.broadcast.current.w)  # type: ignore[union-attr]


def test_a_model_changed_by_the_user_between_two_attempts(setting: Setting) -> None:
    strategy, spying = make(setting, on_failure="redo"), Spying(setting)
    grid = FaultyGrid(spying.app, num_clients=CLIENTS, faults=Faults())
    arrays = setting.start
    for _ in range(4):
        arrays = attempt(strategy, grid, arrays, spying)
    grid.faults = Faults(lose_reply=0.5)
    attempt(strategy, grid, arrays, spying)
    assert strategy.round == 4
    grid.faults = Faults()
    moved = ArrayRecord({"weight": Array(arrays["weight"].numpy() + 1.0)})
    answered = sum(held == 5 for held in map(strategy.broadcast.held, range(CLIENTS)))  # type: ignore[union-attr]
    assert 0 < answered < CLIENTS
    attempt(strategy, grid, moved, spying)
    # All hold a version that came to nothing. The server knows it of those whose replies came.
    assert {partition for partition, _ in spying.seen} == {
        p
        for p in range(CLIENTS)
        if strategy.broadcast.held(p) == 6  # type: ignore[union-attr]
    }
    assert len(spying.seen) == answered
    assert strategy.bytes.recovery == 0
    arrays = attempt(strategy, grid, moved, spying)
    assert strategy.round == 5
    assert strategy.bytes.recovery == (CLIENTS - answered) * DENSE
    current = strategy.broadcast.current  # type: ignore[union-attr]
    assert current is not None
    behind = (current.w - strategy.x).norm()
    while strategy.round < 30:
        arrays = attempt(strategy, grid, arrays, spying)
    assert (strategy.broadcast.current.w - strategy.x).norm() < behind / 2  # type: ignore[union-attr]


def test_upstreams_own_start_drives_it(setting: Setting) -> None:
    ours = make(setting)
    records = run(setting, ours, rounds=30)
    theirs = make(setting)
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    result = Strategy.start(theirs, grid, setting.start, num_rounds=30)
    assert np.array_equal(result.arrays["weight"].numpy(), records[-1].x.numpy())
    assert theirs.bytes == ours.bytes


@pytest.mark.parametrize("method", ["top-1", "top-1-3-of-8", "natural-5-of-8"])
def test_fast_then_messages_then_fast_on_one_grid(setting: Setting, method: str) -> None:
    straight = METHODS[method](setting)
    run(setting, straight, rounds=21, fast="require")
    strategy = METHODS[method](setting)
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    arrays = setting.start
    for fast in ("require", "never", "require"):
        grid.fast = fast  # type: ignore[assignment]
        arrays = strategy.start(grid, arrays, num_rounds=7).arrays
    assert torch.equal(straight.x, strategy.x)
    assert strategy.bytes == straight.bytes


# ------------------------------------------------------------------ pure parts


@dataclass(frozen=True)
class Broken(TopK):
    """Says infinity."""

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        return Payload(dimension=vectors.shape[1], values=Floats(torch.full_like(vectors, np.inf)))


def test_a_proposal_changes_nothing_and_the_path_stays_shorter_than_the_model() -> None:
    generator = torch.Generator().manual_seed(0)
    broadcast = Broadcast(TopK(k=1), clients=3, seed=1)
    x = torch.randn(40, generator=generator, dtype=torch.float64)
    first = broadcast.propose(x, 1)
    assert first is broadcast.propose(x.clone(), 1)
    assert (first.number, first.steps) == (1, ())
    assert first.sizes(0) == (Route.size(0), len(encode_vector(x)))
    broadcast.follow(first)
    known = {1: first.w}
    for round in range(2, 60):
        x = x + 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
        edition = broadcast.propose(x, round)
        assert edition is broadcast.propose(x, round)
        broadcast.follow(edition)
        known[edition.number] = edition.w
        for held, w in edition.versions().items():
            assert torch.equal(w, known[held])
            fields, frames = edition.parcel(held)
            assert (len(fields), sum(map(len, frames))) == edition.sizes(held)
            assert sum(edition.sizes(held)) < Route.size(0) + edition.frame_size
            found = rebuild(
                Replica(session=9, number=held, w=w),
                Route.from_bytes(fields),
                frames,
                session=9,
                dimension=40,
            )
            assert found is not None
            assert torch.equal(found.w, edition.w)
            assert torch.equal(w, known[held])
    assert 10 < len(edition.steps) < 40
    assert edition.steps_from(1) is None
    # One more step would have been too long.
    lengths = [step.size + 4 for step in edition.steps]
    assert sum(lengths) + max(lengths) + 4 >= edition.frame_size


def test_another_model_in_the_same_round_is_another_version() -> None:
    broadcast = Broadcast(RandK(k=2), clients=2, seed=1, scale=0.2)
    x = torch.ones(10, dtype=torch.float64)
    broadcast.follow(broadcast.propose(x, 1))
    once = broadcast.propose(x + 1, 2)
    broadcast.confirm([0], once)
    other = broadcast.propose(x + 2, 2)
    assert other.number > once.number
    assert other.steps_from(once.number) is None
    assert other.steps_from(1) is not None
    broadcast.follow(other)
    later = broadcast.propose(x + 3, 3)
    assert not broadcast.is_repair(0, later)
    assert later.sizes(broadcast.held(0)) == (Route.size(0), later.frame_size)
    broadcast.forget(1)
    assert broadcast.is_repair(1, later)
    assert broadcast.sizes(torch.arange(2), later) == (
        2 * Route.size(0) + later.frame_size,
        later.frame_size,
    )
    broadcast.confirm([1], later)
    assert not broadcast.is_repair(1, later)


def test_a_difference_that_cannot_be_coded_is_replaced_by_the_model() -> None:
    broadcast = Broadcast(Broken(k=1), clients=1, seed=0)
    x = torch.ones(4, dtype=torch.float64)
    broadcast.follow(broadcast.propose(x, 1))
    assert torch.equal(broadcast.propose(x + 1, 2).w, x + 1)
    assert broadcast.propose(x + 1, 2).steps_from(1) is None


def test_a_model_beyond_the_largest_number_is_never_proposed() -> None:
    broadcast = Broadcast(parse_compressor("natural"), clients=1, seed=0)
    near, end = torch.full((64,), 2.9e38), torch.full((64,), 3.4e38)
    broadcast.follow(broadcast.propose(near, 1))
    assert broadcast.current is not None
    # Every difference is finite; rounded up it leads too far.
    keys = client_keys(0, 2, torch.zeros(1, dtype=torch.int64), Purpose.DOWNLINK)
    payload = broadcast.compressor.compress((end - near)[None], keys)
    assert payload.is_finite()
    assert not bool(torch.isfinite(broadcast.current.next(2, payload).w).all())
    edition = broadcast.propose(end, 2)
    assert torch.equal(edition.w, end)
    assert edition.steps_from(1) is None
    # One step later all is as ever.
    broadcast.follow(edition)
    assert broadcast.propose(near, 3).steps_from(edition.number) is not None


def test_a_doubled_word_of_being_behind_counts_once() -> None:
    broadcast = Broadcast(TopK(k=1), clients=1, seed=1)
    x = torch.zeros(40, dtype=torch.float64)
    for round in range(1, 5):
        edition = broadcast.propose(x + round, round)
        if round == 2:
            broadcast.fell_behind(0)
            broadcast.fell_behind(0)
        else:
            broadcast.confirm([0], edition)
        broadcast.follow(edition)
    assert broadcast.held(0) == 4


def test_float32_models_keep_their_type() -> None:
    edition = Edition.whole(1, torch.randn(6), 1.0)
    after = edition.next(2, TopK(k=1).compress(torch.ones(1, 6), torch.zeros(1).long()))
    assert after.w.dtype == torch.float32
    assert not torch.equal(after.w, edition.w)


def test_control_fields_are_validated() -> None:
    route = Route(numbers=(3, 4, 9), checksum=7, scale=0.5)
    assert Route.from_bytes(route.to_bytes()) == route
    assert len(route.to_bytes()) == Route.size(2)
    for bad in (b"", route.to_bytes()[:-1], b"\x02" + route.to_bytes()[1:]):
        with pytest.raises(ProtocolError, match="downlink"):
            Route.from_bytes(bad)
    whole = Route(numbers=(3,), checksum=checksum(torch.ones(2)) ^ 1, scale=1.0, whole=True)
    with pytest.raises(ProtocolError, match="another checksum"):
        rebuild(None, whole, [encode_vector(torch.ones(2))], session=1, dimension=2)


@pytest.mark.parametrize("method", [Scafflix, SPPM])
def test_other_methods_refuse_it_and_say_why(method: Any) -> None:
    with pytest.raises(ValueError, match=rf"downlink: not for {method.__name__}: \w+"):
        method(downlink=TopK(k=1))
    method(downlink=Identity())


def test_what_is_no_compressor_is_refused(setting: Setting) -> None:
    with pytest.raises(ValueError, match="is no Compressor; write TopK"):
        make(setting, downlink="top-k:k=1")
