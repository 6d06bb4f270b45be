"""The exactly-once promise: client memories and the server's mean agree after any fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import Strategy

from fedstrategies.compressors import RandK, TopK, parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV
from fedstrategies.flower import AllClientsFailed
from fedstrategies.flower.private import client_error
from fedstrategies.flower.records import load_memory, load_receipts
from fedstrategies.sampling import NiceSampling
from fedstrategies.wire import decode
from tests.flower.conftest import CLIENTS, DIMENSION, Setting
from tests.flower.effective import effective_memories
from tests.flower.faults import Faults, FaultyGrid
from tests.flower.outage import Outage

MIXED = Faults(
    lose_request=0.05,
    lose_reply=0.30,
    delay_reply=0.08,
    duplicate_reply=0.10,
    redeliver_request=0.10,
    corrupt_reply=0.05,
    wipe_state=0.01,
    crash_after_commit=0.03,
)
EXPECTED_NOISE = (
    "late",
    "duplicate",
    "no reply",
    "malformed",
    "lost",
    "stale",
    "client raised",
    "another memory",
)


def drive(strategy: EFBV, grid: FaultyGrid, arrays: ArrayRecord, rounds: int) -> ArrayRecord:
    """Upstream's loop, with the invariant checked after every round."""
    for server_round in range(1, rounds + 1):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        arrays = found if found is not None else arrays
        memories = effective_memories(grid, strategy)["h"]
        assert (strategy.h - memories.mean(dim=0)).abs().max() < 1e-12, server_round
        assert strategy.memory is not None
        assert torch.equal(strategy.memory["h"], memories), server_round
        for line in strategy.failures:
            assert any(noise in line for noise in EXPECTED_NOISE), line
    return arrays


@pytest.mark.parametrize(
    "strategy",
    [
        lambda s: EFBV(compressor=TopK(k=3), smoothness=s),
        lambda s: EFBV(compressor=RandK(k=3), smoothness=s, shift_init="gradient"),
        lambda s: EF21(compressor=parse_compressor("top-k:k=4+natural"), smoothness=s),
        lambda s: DIANA(compressor=RandK(k=4), smoothness=s),
        lambda s: EFBV(compressor=TopK(k=3), smoothness=s, sampling=NiceSampling(cohort_size=5)),
    ],
    ids=["efbv", "efbv-gradient-shifts", "ef21-natural", "diana", "efbv-5-of-8"],
)
def test_mixed_faults_never_desynchronise_and_the_run_converges(
    setting: Setting, strategy: object
) -> None:
    method: EFBV = strategy(setting.smoothness)  # type: ignore[operator]
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=MIXED, seed=1)
    arrays = drive(method, grid, setting.start, 40)
    for name, probability in vars(MIXED).items():
        assert (grid.happened[name] > 0) == (probability > 0.0), name
    assert method.bytes.recovery > 0
    grid.faults = Faults()
    before = setting.gradient_norm(method.x)
    drive(method, grid, arrays, 12)
    assert method.failures == ()
    assert setting.gradient_norm(method.x) < before


def test_thirty_percent_of_replies_lost_and_upstreams_own_start(setting: Setting) -> None:
    strategy = EFBV(
        compressor=TopK(k=9),
        smoothness=setting.smoothness,
        stepsize="theory*2",
        fraction_evaluate=0,
    )
    grid = FaultyGrid(
        setting.app, num_clients=CLIENTS, faults=Faults(lose_reply=0.3, duplicate_reply=0.1)
    )
    result = Strategy.start(strategy, grid, setting.start, num_rounds=150)
    memories = effective_memories(grid, strategy)["h"]
    assert (strategy.h - memories.mean(dim=0)).abs().max() < 1e-12
    assert setting.gradient_norm(strategy.x) < 1e-3
    assert np.array_equal(result.arrays["weight"].numpy(), strategy.x.numpy())


def test_a_vanished_client_state_is_restored_by_one_dense_download(setting: Setting) -> None:
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=Faults())
    arrays = drive(strategy, grid, setting.start, 5)
    node = list(grid.contexts)[3]
    grid.contexts[node].state = RecordDict()
    arrays = drive(strategy, grid, arrays, 1)
    assert [line for line in strategy.failures if "partition 3" in line and "lost" in line]
    assert strategy.bytes.recovery == 0
    arrays = drive(strategy, grid, arrays, 1)
    assert strategy.failures == ()
    recovered = strategy.bytes.recovery
    assert 8 * DIMENSION < recovered < 8 * DIMENSION + 24
    drive(strategy, grid, arrays, 5)
    assert strategy.bytes.recovery == recovered


def test_above_the_memory_budget_a_lost_memory_resets_all(setting: Setting) -> None:
    strategy = EF21(
        compressor=TopK(k=9), smoothness=setting.smoothness, stepsize="theory*2", memory_budget=0
    )
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=Faults())
    arrays = setting.start

    def one_round(arrays: ArrayRecord) -> ArrayRecord:
        before = strategy.round
        messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
        assert (found is None) == (strategy.round == before)
        return arrays if found is None else found

    for _ in range(4):
        arrays = one_round(arrays)
    assert strategy.memory is None
    grid.contexts[list(grid.contexts)[2]].state = RecordDict()
    x = strategy.x
    arrays = one_round(arrays)
    assert strategy.round == 4
    assert torch.equal(strategy.x, x)
    assert not strategy.h.any()
    for _ in range(150):
        arrays = one_round(arrays)
    assert strategy.bytes.recovery == 0
    rows = []
    for context in grid.contexts.values():
        stored, receipts = load_memory(context.state), load_receipts(context.state)
        row = torch.zeros(1, DIMENSION).double() if stored is None else stored["h"].clone()
        assert receipts.pending is not None
        decode(receipts.pending.blob, dimension=DIMENSION).add_to_(row, 1.0)
        rows.append(row)
    assert (strategy.h - torch.cat(rows).mean(dim=0)).abs().max() < 1e-12
    assert setting.gradient_norm(strategy.x) < 1e-3


def test_redo_keeps_the_round_and_gives_the_fault_free_result(setting: Setting) -> None:
    def run(faults: Faults) -> tuple[EFBV, FaultyGrid]:
        strategy = EFBV(
            compressor=RandK(k=3), smoothness=setting.smoothness, on_failure="redo", seed=5
        )
        grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=faults, seed=2)
        arrays = setting.start
        while strategy.round < 12:
            messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
            found, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
            arrays = arrays if found is None else found
        return strategy, grid

    clean, _ = run(Faults())
    faulty, grid = run(replace(Faults(), lose_reply=0.1, duplicate_reply=0.1, delay_reply=0.05))
    assert grid.happened["lose_reply"] > 0
    assert torch.equal(clean.x, faulty.x)
    assert torch.equal(clean.h, faulty.h)


def test_if_every_client_fails_the_first_traceback_is_raised(setting: Setting) -> None:
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=Faults(crash_after_commit=1.0))
    with pytest.raises(AllClientsFailed, match=r"all 8 clients failed.*was killed"):
        strategy.start(grid, setting.start, num_rounds=3)
    assert strategy.round == 0


@pytest.mark.parametrize(
    "code",
    [ErrorCode.UNKNOWN, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED],
)
def test_an_outage_of_all_nodes_costs_attempts_and_not_the_run(setting: Setting, code: int) -> None:
    def run(exchanges: int) -> EF21:
        strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
        grid = Outage(setting.app, num_clients=CLIENTS, code=code, exchanges=exchanges)
        strategy.start(grid, setting.start, num_rounds=6)
        return strategy

    assert torch.equal(run(4).x, run(0).x)
    with pytest.raises(AllClientsFailed, match=r"none of the 8.*5 attempts.*the actor died"):
        run(5)


def test_an_error_of_the_app_s_own_ends_the_run_at_once(setting: Setting) -> None:
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
    with pytest.raises(AllClientsFailed, match="all 8 clients failed"):
        strategy.start(
            Outage(setting.app, num_clients=CLIENTS, code=code, exchanges=1),
            setting.start,
            num_rounds=6,
        )


def test_lost_requests_do_not_make_a_reset_reset_itself(setting: Setting) -> None:
    strategy = EF21(compressor=TopK(k=9), smoothness=setting.smoothness, memory_budget=0)
    resets = []
    forget = strategy.forget
    strategy.forget = lambda: (resets.append(strategy.round), forget())[1]  # type: ignore[method-assign]
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=Faults(lose_request=0.3), seed=4)
    arrays = setting.start
    for attempt in range(25):
        if attempt == 5:
            grid.contexts[list(grid.contexts)[2]].state = RecordDict()
        messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
        arrays = arrays if found is None else found
    assert len(resets) == 1


def test_an_error_beside_a_good_reply_does_not_count_as_a_failed_client(setting: Setting) -> None:
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=Faults())
    messages = list(strategy.configure_train(1, setting.start, ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    errors = [client_error("again", message) for message in messages]
    strategy.aggregate_train(1, [*replies, *errors])
    assert (strategy.round, strategy.participants, strategy.failures) == (1, CLIENTS, ())
