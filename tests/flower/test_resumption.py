"""Going on from a checkpoint, whatever the clients did in the meantime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord

from fedstrategies.checkpoint import CheckpointError, Checkpoints
from fedstrategies.compressors import RandK, TopK
from fedstrategies.efbv import EF21, EFBV
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import Accounts, RoundRecord
from fedstrategies.flower.resumption import snapshot
from fedstrategies.objectives import L1
from fedstrategies.privacy import Ledger as PrivacyLedger
from fedstrategies.sampling import NiceSampling
from tests.flower.conftest import CLIENTS, Setting

ROUNDS = 12


class Run:
    """One kind of strategy, and what a run of it is to end with."""

    def __init__(self, setting: Setting, kind: type = EFBV, **settings: Any) -> None:
        self.setting, self.kind = setting, kind
        defaults = {
            "compressor": RandK(k=3),
            "smoothness": setting.smoothness,
            "sampling": NiceSampling(cohort_size=4),
        }
        self.settings = {**defaults, "fraction_evaluate": 0.0, **settings}

    def strategy(self, **changes: Any) -> Any:
        return self.kind(**{**self.settings, **changes})

    def grid(self, fast: str = "never") -> CohortGrid:
        return CohortGrid(self.setting.app, num_clients=CLIENTS, fast=fast)

    def start(self, strategy: Any, grid: CohortGrid, rounds: int = ROUNDS, **more: Any) -> Any:
        return strategy.start(grid, self.setting.start, num_rounds=rounds, **more)

    def whole(self, fast: str = "never") -> Any:
        strategy = self.strategy()
        self.start(strategy, self.grid(fast))
        return strategy


@pytest.fixture
def a_run(setting: Setting) -> Run:
    return Run(setting)


def same(one: Any, two: Any) -> None:
    assert one.x.equal(two.x)
    assert one.round == two.round
    assert all(one.memory[name].equal(two.memory[name]) for name in one.memory)
    assert (one.bytes.uplink, one.bytes.downlink) == (two.bytes.uplink, two.bytes.downlink)


@pytest.mark.parametrize("downlink", [None, TopK(k=2)])
def test_clients_that_went_on_are_brought_back(setting, downlink, tmp_path) -> None:
    """Twice from one checkpoint, on nodes that have worked beyond it: the undisturbed run."""
    run = Run(setting, EF21, compressor=TopK(k=3), downlink=downlink)
    grid, whole = run.grid(), run.whole()
    run.start(run.strategy(), grid, 5, checkpoints=tmp_path, checkpoint_every=5)
    (older,) = Checkpoints(tmp_path).found()
    for rounds in (7, ROUNDS):
        again = run.strategy()
        run.start(again, grid, rounds, resume=older)
    same(again, whole)
    assert again.bytes.recovery > 0
    assert not [line for line in again.failures if "lost" in line]


@pytest.mark.parametrize(("before", "after"), [("auto", "never"), ("never", "auto")])
def test_a_run_may_go_on_another_way_than_it_began(a_run, before, after, tmp_path) -> None:
    a_run.start(a_run.strategy(), a_run.grid(before), 5, checkpoints=tmp_path, checkpoint_every=5)
    again = a_run.strategy()
    a_run.start(again, a_run.grid(after), resume=tmp_path)
    same(again, a_run.whole())
    assert (again.bytes.recovery > 0) == (after == "never")


def test_messages_after_a_resumed_fast_path_find_the_memories(a_run, tmp_path) -> None:
    a_run.start(a_run.strategy(), a_run.grid("auto"), 5, checkpoints=tmp_path, checkpoint_every=5)
    grid, again = a_run.grid("require"), a_run.strategy()
    a_run.start(again, grid, 8, resume=tmp_path)
    grid.fast = "never"
    again.start(grid, again.arrays, num_rounds=ROUNDS - 8)
    same(again, a_run.whole())
    assert again.bytes.recovery == 0


def test_what_reaches_callbacks_and_results(a_run, tmp_path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.rounds: list[int] = []
            self.started = 0

        def on_start(self, x: torch.Tensor) -> None:
            self.started += 1

        def on_round(self, record: RoundRecord) -> bool | None:
            self.rounds.append(record.round)
            return None

        def on_end(self) -> None: ...

    class Keeping(Counting):
        def state(self) -> Mapping[str, object]:
            return {"rounds": list(self.rounds)}

        def on_resume(self, kept: Mapping[str, Any], x: torch.Tensor) -> bool | None:
            self.rounds = kept["rounds"]
            return None

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"round": round})

    first = [Counting(), Keeping()]
    a_run.start(
        a_run.strategy(), a_run.grid(), 6, callbacks=first, checkpoints=tmp_path, checkpoint_every=4
    )
    plain, keeping = Counting(), Keeping()
    result = a_run.start(
        a_run.strategy(),
        a_run.grid(),
        callbacks=[plain, keeping],
        resume=tmp_path,
        evaluate_fn=evaluate,
    )
    assert keeping.rounds == list(range(1, ROUNDS + 1))
    assert (plain.started, plain.rounds) == (1, list(range(7, ROUNDS + 1)))
    assert keeping.started == 0
    assert list(result.train_metrics_clientapp) == list(range(7, ROUNDS + 1))
    assert list(result.evaluate_metrics_serverapp) == list(range(7, ROUNDS + 1))
    with pytest.raises(CheckpointError, match=r"written with callbacks \['Keeping'\]"):
        a_run.start(a_run.strategy(), a_run.grid(), resume=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "of a run with seed = 0, this one has 3"),
        ({"downlink": TopK(k=1)}, "downlink = None, this one has top-k:k=1"),
        ({"memory_budget": 0}, "copy of the memories = True, this one has False"),
        ({"compressor": RandK(k=2)}, "compressor = rand-k:k=3, this one has rand-k:k=2"),
        ({"stepsize": 0.25}, r"step size = 0\.0\d+, this one has 0\.25"),
        ({"nu": 0.25}, r"nu = 0\.528\d*, this one has 0\.25"),
        ({"prox": L1(0.5)}, r"prox = .*, this one has l1:0\.5"),
        ({"sampling": NiceSampling(cohort_size=3)}, r"cohort_size=4\), this one has .*=3\)"),
        ({"max_update_norm": 9.0}, r"max_update_norm = None, this one has 9\.0"),
        ({"on_failure": "redo"}, "on_failure = 'continue', this one has 'redo'"),
    ],
)
def test_a_strategy_that_was_built_otherwise_is_refused(a_run, changes, message, tmp_path) -> None:
    a_run.start(a_run.strategy(), a_run.grid(), 2, checkpoints=tmp_path, checkpoint_every=2)
    with pytest.raises(CheckpointError, match=message):
        a_run.start(a_run.strategy(**changes), a_run.grid(), resume=tmp_path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"weight": torch.zeros(3, 4)}, r"entries = \('weight', \(12,\)\), this one has"),
        ({"weight": torch.zeros(12), "frozen": torch.ones(2)}, "not trained = 0 with"),
    ],
)
def test_another_model_of_the_same_dimension_is_refused(a_run, start, message, tmp_path) -> None:
    a_run.start(a_run.strategy(), a_run.grid(), 2, checkpoints=tmp_path, checkpoint_every=2)
    arrays = ArrayRecord({name: value.double() for name, value in start.items()})
    with pytest.raises(CheckpointError, match=message):
        a_run.strategy(trainable="weight").start(
            a_run.grid(), arrays, num_rounds=ROUNDS, resume=tmp_path
        )


def test_other_frozen_entries_are_refused(setting, tmp_path) -> None:
    """They are carried along, so trained weights would end beside others than they began with."""
    run = Run(setting, trainable="weight")

    def start(frozen: float, **more: Any) -> None:
        weight = torch.zeros(12, dtype=torch.float64)
        arrays = ArrayRecord({"weight": weight, "frozen": torch.full((2,), frozen)})
        run.strategy().start(run.grid(), arrays, checkpoints=tmp_path, checkpoint_every=2, **more)

    start(1.0, num_rounds=2)
    with pytest.raises(CheckpointError, match=r"not trained = 1 with checksum .*, this one has 1"):
        start(2.0, num_rounds=4, resume=tmp_path)
    start(1.0, num_rounds=4, resume=tmp_path)


def test_fewer_rounds_than_are_done_are_refused_and_nothing_is_lost(a_run, tmp_path) -> None:
    """The checkpoint before the last one has fewer, but is not what was meant."""
    kept = {"checkpoints": tmp_path, "checkpoint_every": 2}
    a_run.start(a_run.strategy(), a_run.grid(), 4, **kept)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="of round 4, and the run is to have 3 rounds"):
        a_run.start(a_run.strategy(), a_run.grid(), 3, resume=tmp_path, **kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_with_checkpoints_is_not_begun_anew(a_run, tmp_path) -> None:
    kept = {"checkpoints": tmp_path, "checkpoint_every": 2}
    a_run.start(a_run.strategy(), a_run.grid(), 2, **kept)
    with pytest.raises(ValueError, match="there are checkpoints of a run; give resume"):
        a_run.start(a_run.strategy(), a_run.grid(), 2, **kept)


@pytest.mark.parametrize("changed", ["missing", "bytes", "method", "memory", "x", "ledger"])
def test_what_does_not_fit_this_version_is_one_line(a_run, changed, tmp_path) -> None:
    first = a_run.strategy()
    a_run.start(first, a_run.grid(), 2)
    tree: dict[str, Any] = snapshot(first)
    if changed == "missing":
        del tree["nodes"]
    else:
        tree[changed] = {
            "bytes": {"sideways": 3},
            "method": {},
            "memory": {"h": torch.zeros(3, 12)},
            "x": torch.zeros(11),
            "ledger": {},
        }[changed]
    Checkpoints(tmp_path).write(2, {"strategy": tree, "callbacks": []})
    with pytest.raises(CheckpointError) as caught:
        a_run.start(a_run.strategy(), a_run.grid(), resume=tmp_path)
    assert "\n" not in str(caught.value)


def test_accounts_that_were_given_are_joined_with_those_kept(a_run, tmp_path) -> None:
    a_run.start(a_run.strategy(), a_run.grid(), 2, checkpoints=tmp_path, checkpoint_every=2)
    ledger = PrivacyLedger().charge(noise_multiplier=3.0, sample_rate=1.0, steps=7)
    again = a_run.strategy()
    again.accounts = Accounts(CLIENTS)
    again.accounts.heard(1, ledger, up_to=0)
    a_run.start(again, a_run.grid(), resume=tmp_path)
    assert again.accounts.ledger(1) == ledger


def test_above_the_memory_budget_all_memories_start_anew(setting, caplog, tmp_path) -> None:
    run = Run(setting, memory_budget=0, sampling=None, compressor=RandK(k=11))
    run.start(run.strategy(), run.grid(), 5, checkpoints=tmp_path, checkpoint_every=5)
    again = run.strategy()
    run.start(again, run.grid(), 200, resume=tmp_path)
    assert "all of them start anew" in caplog.text
    assert setting.gradient_norm(again.x) < 1e-3


def test_a_room_that_does_not_tell_its_state_is_refused(setting: Setting, tmp_path: Path) -> None:
    class Forgetful(EFBV):
        def method_state(self) -> Mapping[str, object]:
            return {}

    run = Run(setting, Forgetful)
    with pytest.raises(RuntimeError, match="Forgetful has state that follows its rounds"):
        run.start(run.strategy(), run.grid(), 2, checkpoints=tmp_path, checkpoint_every=1)


def test_wrong_arguments(a_run: Run, tmp_path: Path) -> None:
    for wrong in ({"checkpoint_every": 3}, {"checkpoints": tmp_path}):
        with pytest.raises(ValueError, match="or neither"):
            a_run.start(a_run.strategy(), a_run.grid(), **wrong)
    with pytest.raises(CheckpointError, match="no checkpoint that can be used"):
        a_run.start(a_run.strategy(), a_run.grid(), resume=tmp_path)
    with pytest.raises(CheckpointError, match="cut, damaged or no checkpoint"):
        a_run.start(a_run.strategy(), a_run.grid(), resume=tmp_path / "absent.safetensors")
