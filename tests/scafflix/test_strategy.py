"""The Flower half: every path gives the same, and faults leave the invariant alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import Strategy
from safetensors.torch import load_file

from fedstrategies.compressors import Floats, Identity, TopK
from fedstrategies.efbv import EFBV
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import BaseStrategy
from fedstrategies.flower.personal_metrics import spread_over_clients
from fedstrategies.flower.records import load_memory, load_receipts
from fedstrategies.objectives import LocalSGD, PersonalObjective, Smoothness
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FLIX, FedAvg, IScaffnew, Scafflix, ScafflixClient, Scaffnew
from fedstrategies.server_optimizer import Adam
from fedstrategies.wire import decode
from tests.flower.faults import Faults, FaultyGrid
from tests.scafflix.setting import CLIENTS, DIMENSION, EQUAL, RANDOM, Setting

SEVERAL = {
    "scafflix": lambda s: Scafflix(alpha=RANDOM, smoothness=s),
    "scafflix-2-of-8": lambda s: Scafflix(
        alpha=RANDOM, smoothness=s, local_steps=3, sampling=NiceSampling(cohort_size=2)
    ),
    "scafflix-local-only": lambda s: Scafflix(alpha=(0.0, *RANDOM[1:]), smoothness=s),
    "scafflix-adam": lambda s: Scafflix(alpha=0.5, smoothness=s, server_optimizer=Adam(lr=0.02)),
    "i-scaffnew": lambda s: IScaffnew(smoothness=s),
    "scaffnew": lambda s: Scaffnew(smoothness=s),
    "flix": lambda s: FLIX(alpha=RANDOM, smoothness=s),
    "flix-adam": lambda s: FLIX(alpha=0.5, smoothness=s, server_optimizer=Adam(lr=0.02)),
    "fedavg": lambda s: FedAvg(local_steps=3, smoothness=s, sampling=NiceSampling(cohort_size=5)),
}


@pytest.fixture
def setting() -> Setting:
    return Setting()


def run(
    setting: Setting,
    strategy: BaseStrategy,
    fast: Any,
    rounds: int = 12,
    evaluate: float = 0.0,
) -> CohortGrid:
    strategy.fraction_evaluate = evaluate
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast, serialize=fast == "never")
    strategy.start(grid, setting.start, num_rounds=rounds)
    return grid


@pytest.mark.parametrize("make", SEVERAL.values(), ids=list(SEVERAL))
def test_the_fast_path_and_messages_give_the_same_bits_and_bytes(
    setting: Setting, make: Any
) -> None:
    batched, by_message = make(setting.smoothness), make(setting.smoothness)
    # What an evaluation costs does not depend on the method: one of them shows it.
    evaluate = float(make is SEVERAL["scafflix"])
    run(setting, batched, "require", evaluate=evaluate)
    run(setting, by_message, "never", evaluate=evaluate)
    assert torch.equal(batched.x, by_message.x)
    assert not torch.equal(batched.x, torch.zeros(DIMENSION, dtype=torch.float64))
    assert batched.bytes == by_message.bytes
    for name, value in (batched.memory or {}).items():
        assert torch.equal(value, by_message.memory[name])


def test_a_run_goes_on_by_messages_after_the_fast_path(setting: Setting) -> None:
    law = NiceSampling(cohort_size=3)
    alone = Scafflix(alpha=RANDOM, smoothness=setting.smoothness, sampling=law)
    run(setting, alone, "never", rounds=20)
    mixed = Scafflix(alpha=RANDOM, smoothness=setting.smoothness, sampling=law)
    grid = run(setting, mixed, "require", rounds=8)
    grid.fast = "never"
    mixed.start(grid, mixed.arrays, num_rounds=12)
    assert torch.equal(mixed.x, alone.x)


def invariant(strategy: Scafflix) -> float:
    assert strategy.memory is not None
    alpha = torch.tensor(strategy.alpha, dtype=torch.float64).unsqueeze(1)
    return float((alpha * strategy.memory["h"]).sum(dim=0).abs().max())


def settled_memories(grid: CohortGrid, strategy: Scafflix) -> torch.Tensor:
    """Each client's own h_i, its used upload settled; where it lost it, what it will be sent."""
    rows, objectives = [], Setting().objectives
    for index, context in enumerate(grid.contexts.values()):
        receipts, stored = load_receipts(context.state), load_memory(context.state)
        memory = {"h": torch.zeros(1, DIMENSION).double()} if stored is None else stored
        accepted = strategy.ledger.accepted(index)
        if receipts.pending is not None and receipts.pending.tag == accepted:
            client = ScafflixClient(context, objective=objectives[index])
            rule = client.rule(receipts.pending.constants, receipts.pending.spec)
            upload = decode(receipts.pending.blob, dimension=DIMENSION)
            settlement = strategy._means[strategy._last_used[index]]
            rule.commit_(memory, upload, settlement=settlement)
        elif receipts.committed != accepted:
            start = torch.zeros(1, DIMENSION).double()
            copy = strategy.memory
            memory = {"h": start if copy is None else copy["h"][index : index + 1]}
        rows.append(memory["h"][0])
    return torch.stack(rows)


@pytest.mark.parametrize("alpha", [EQUAL, RANDOM], ids=["equal", "random"])
@pytest.mark.parametrize("kind", ["2-of-8", "faults"])
def test_the_invariant_and_the_optimum_survive_participation_and_faults(
    setting: Setting, alpha: tuple[float, ...], kind: str
) -> None:
    partial = kind == "2-of-8"
    strategy = Scafflix(
        alpha=alpha,
        smoothness=setting.smoothness,
        local_steps=2,
        sampling=NiceSampling(cohort_size=2) if partial else None,
    )
    faults = Faults() if partial else Faults(lose_reply=0.3, duplicate_reply=0.1)
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=faults, seed=3)
    arrays = setting.start
    rounds = 400 if partial else 150
    for server_round in range(1, rounds + 1):
        if not partial and server_round in (5, 20, 40):
            grid.contexts[1001 + server_round % CLIENTS].state = RecordDict()
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        arrays = found if found is not None else arrays
        assert invariant(strategy) < 1e-10, server_round
    assert strategy.memory is not None
    assert torch.equal(settled_memories(grid, strategy), strategy.memory["h"])
    assert (strategy.bytes.recovery > 0) is not partial
    before = setting.gradient_norm(torch.zeros(DIMENSION).double(), alpha)
    assert setting.gradient_norm(strategy.x, alpha) < 1e-6 * before


def test_without_room_for_a_copy_a_lost_memory_starts_all_anew(setting: Setting) -> None:
    alpha = torch.tensor(RANDOM, dtype=torch.float64).unsqueeze(1)
    strategy = Scafflix(alpha=RANDOM, smoothness=setting.smoothness, local_steps=2, memory_budget=0)
    grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=Faults(lose_reply=0.2), seed=5)
    arrays, resets = setting.start, 0
    for server_round in range(1, 121):
        if server_round in (10, 30):
            grid.contexts[1003].state = RecordDict()
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        arrays = found if found is not None else arrays
        resets += any("lost" in line for line in strategy.failures)
        if not any("lost" in line for line in strategy.failures):
            memories = settled_memories(grid, strategy)
            assert float((alpha * memories).sum(dim=0).abs().max()) < 1e-10, server_round
    assert strategy.memory is None
    assert resets == 2
    assert strategy.bytes.recovery == 0
    assert setting.gradient_norm(strategy.x, RANDOM) < 1e-6


def test_upstreams_own_start_drives_it(setting: Setting) -> None:
    ours, theirs = (
        Scafflix(alpha=RANDOM, smoothness=setting.smoothness, fraction_evaluate=0) for _ in "ab"
    )
    run(setting, ours, "never")
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    Strategy.start(theirs, grid, setting.start, num_rounds=12)
    assert torch.equal(ours.x, theirs.x)


def test_a_server_optimiser_moves_x_and_leaves_the_invariant(setting: Setting) -> None:
    strategy = Scafflix(
        alpha=RANDOM, smoothness=setting.smoothness, server_optimizer=Adam(lr=0.05), local_steps=2
    )
    plain = Scafflix(alpha=RANDOM, smoothness=setting.smoothness, local_steps=2)
    run(setting, strategy, "never")
    run(setting, plain, "never")
    assert invariant(strategy) < 1e-12
    # The mean that settles the control variates is sent beside the model from round 2 on.
    frames = strategy.bytes.downlink - plain.bytes.downlink
    assert frames >= 11 * CLIENTS * DIMENSION * 8


def test_a_purely_local_client_is_never_asked(setting: Setting) -> None:
    alpha = (0.0, *RANDOM[1:])
    strategy = Scafflix(alpha=alpha, smoothness=setting.smoothness)
    result = strategy.start(
        CohortGrid(setting.app, num_clients=CLIENTS, fast="never"), setting.start, num_rounds=20
    )
    assert strategy.participants == CLIENTS - 1
    assert all(torch.isfinite(torch.tensor(value)) for value in strategy.constants.values())
    assert 0 < result.evaluate_metrics_clientapp[20]["accuracy_personal"] <= 1


def test_evaluation_reports_the_personal_models_beside_the_global_one(
    setting: Setting, tmp_path: Path
) -> None:
    setting.save_to = tmp_path
    alpha = 0.2
    strategy = Scafflix(alpha=alpha, smoothness=setting.smoothness)
    result = strategy.start(
        CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=5
    )
    deployed = setting.personal.deployed(
        strategy.x, torch.full((CLIENTS,), alpha, dtype=torch.float64)
    )
    expected = [float(o.accuracy(row)) for o, row in zip(setting.objectives, deployed, strict=True)]
    measured = result.evaluate_metrics_clientapp[5]
    for name, value in spread_over_clients(expected).items():
        assert measured[name] == pytest.approx(value), name
    plain = torch.stack([o.accuracy(strategy.x) for o in setting.objectives]).mean()
    assert measured["accuracy"] == pytest.approx(float(plain))
    for index, row in enumerate(deployed):
        saved = load_file(tmp_path / f"{index}.safetensors")
        assert torch.equal(saved["weight"], row)


def test_spread_over_clients_is_the_plain_mean_and_the_worst_tenth() -> None:
    accuracies = [i / 20 for i in range(1, 21)]
    found = spread_over_clients([*accuracies, float("nan")])
    assert found["accuracy_personal"] == pytest.approx(0.525)
    assert found["accuracy_personal_worst_decile"] == pytest.approx(0.075)
    assert found["accuracy_personal_std"] == pytest.approx(0.28831, rel=1e-4)
    assert spread_over_clients([float("nan")]) == {}


def test_the_local_optimum_is_kept_in_the_nodes_state(setting: Setting) -> None:
    strategy = Scafflix(alpha=0.3, smoothness=setting.smoothness, local_steps=2)
    grid = run(setting, strategy, "never", rounds=2)
    context = next(iter(grid.contexts.values()))
    again = ScafflixClient(context, objective=setting.objectives[0])
    assert again.personal.solved
    assert torch.equal(again.personal.local_optimum.x, setting.personal.local_optima()[0])
    otherwise = ScafflixClient(
        context, objective=setting.objectives[0], solver=LocalSGD(epochs=2, stepsize=0.1)
    )
    assert not otherwise.personal.solved


def test_nothing_is_solved_where_alpha_is_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("x_i* was solved for")

    monkeypatch.setattr("fedstrategies.objectives.local_solver.ExactLocalSolver.solve", refuse)
    for strategy in (
        Scaffnew(smoothness=setting.smoothness),
        FedAvg(smoothness=setting.smoothness),
    ):
        evaluate = float(isinstance(strategy, FedAvg))
        run(setting, strategy, "never", rounds=3, evaluate=evaluate)
        run(setting, type(strategy)(smoothness=setting.smoothness), "require", 3, evaluate=1.0)


def test_scaffnew_reaches_the_minimum_that_fedavg_misses(setting: Setting) -> None:
    ones = (1.0,) * CLIENTS
    shared = {"smoothness": setting.smoothness, "local_steps": 5, "fraction_evaluate": 0.0}
    scaffnew, fedavg = Scaffnew(**shared), FedAvg(**shared)  # type: ignore[arg-type]
    run(setting, scaffnew, "require", rounds=120)
    run(setting, fedavg, "require", rounds=120)
    assert setting.gradient_norm(scaffnew.x, ones) < 1e-8
    assert setting.gradient_norm(fedavg.x, ones) > 1e-3


def test_one_local_step_of_fedavg_is_gradient_descent(setting: Setting) -> None:
    step = 0.3
    fedavg, flix = FedAvg(stepsize=step), FLIX(alpha=1.0, stepsize=step)
    run(setting, fedavg, "require")
    run(setting, flix, "require")
    assert torch.allclose(fedavg.x, flix.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"compressor": TopK(k=3)}, "TAMUNA"),
        ({"alpha": 1.5}, "outside"),
        ({"alpha": (0.1, 0.2)}, "2 values for 8"),
        ({"alpha": 0.0}, "purely local"),
        ({"local_steps": 3, "p": 0.5}, "alone"),
        ({"local_steps": 0}, "whole number"),
        ({"p": 0.0}, "p = 0"),
        ({"stepsize": "fast"}, "stepsize"),
        ({"stepsize": (0.1,)}, "1 values for 8"),
        ({"sampling": NiceSampling(cohort_size=9)}, "exceeds"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(
    setting: Setting, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        run(setting, Scafflix(smoothness=setting.smoothness, **settings), "never", rounds=1)


def test_without_constants_the_theory_cannot_say(setting: Setting) -> None:
    known = setting.smoothness
    bare = Smoothness(L=known.L, L_tilde=known.L_tilde, L_max=known.L_max)
    for smoothness in (None, bare):
        with pytest.raises(ValueError, match="L_i"):
            run(setting, Scafflix(smoothness=smoothness), "never", rounds=1)
    run(setting, Scafflix(stepsize=0.1, local_steps=2, compressor=Identity()), "require", rounds=1)


def test_another_rooms_strategy_is_refused_by_name(setting: Setting) -> None:
    strategy = EFBV(compressor=TopK(k=2), smoothness=setting.smoothness)
    with pytest.raises(Exception, match="ScafflixClient works"):
        run(setting, strategy, "never", rounds=1)


def test_a_personal_objective_brings_its_own_solver(setting: Setting) -> None:
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    member = setting.personal.members[0]
    assert isinstance(member, PersonalObjective)
    with pytest.raises(ValueError, match="solver already"):
        ScafflixClient(context, objective=member, solver=LocalSGD(epochs=1, stepsize=0.1))


def test_uploads_are_whole_models(setting: Setting) -> None:
    strategy = Scafflix(alpha=0.3, smoothness=setting.smoothness)
    run(setting, strategy, "require", rounds=1)
    rule = strategy.plan(2)[0].rule
    assert isinstance(rule.template(DIMENSION, torch.float64).values, Floats)
    assert strategy.bytes.uplink >= CLIENTS * DIMENSION * 8
