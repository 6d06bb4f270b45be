"""The benchmarks: the arithmetic is the same everywhere, and tables say what the records say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.machine import packages
from benchmarks.pages import replace_between
from benchmarks.simulation import records
from benchmarks.simulation.catalogue import BASELINE, SYSTEMS, System
from benchmarks.simulation.clock import Clock, peak_resident_bytes
from benchmarks.simulation.harness import Bench, interleaved
from benchmarks.simulation.records import Head, Record
from benchmarks.simulation.report import ratios, section
from benchmarks.simulation.schedule import SEED, draw_schedule
from benchmarks.simulation.suite import app, train
from benchmarks.simulation.systems import raw_loop
from benchmarks.simulation.task import (
    BATCH,
    CLIENTS,
    COHORT,
    EXAMPLES,
    STEPS,
    STEPSIZE,
    Schedule,
    build_model,
    client_data,
    flat_weights,
)
from fedstrategies import CohortGrid, FedAvg, NiceSampling
from fedstrategies.threads import single_threaded

ROOT = Path(__file__).parents[1]
ROUNDS = 3


# ------------------------------------------------------------------------ the task


@pytest.mark.parametrize(("name", "parameters"), [("linear", 30_730), ("cnn", 1_626_442)])
def test_models_have_the_published_sizes(name: str, parameters: int) -> None:
    assert flat_weights(build_model(name)).shape == (parameters,)
    np.testing.assert_array_equal(flat_weights(build_model(name)), flat_weights(build_model(name)))


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    build_model("linear")
    assert torch.equal(before, torch.random.get_rng_state())


def test_clients_have_data_of_their_own() -> None:
    features, targets = client_data(3)
    assert features.shape == (EXAMPLES, 3, 32, 32)
    assert targets.shape == (EXAMPLES,)
    assert not torch.equal(features, client_data(4)[0])


def test_the_schedule_survives_a_file(tmp_path: Path) -> None:
    schedule = draw_schedule(ROUNDS)
    schedule.save(tmp_path / "s.npz")
    again = Schedule.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(schedule.cohorts, again.cohorts)
    np.testing.assert_array_equal(schedule.rows, again.rows)
    assert again.path == str(tmp_path / "s.npz")


def test_the_schedule_is_one_of_cohorts_and_batches_without_replacement() -> None:
    schedule = draw_schedule(ROUNDS)
    assert schedule.rows.shape == (ROUNDS, COHORT, STEPS, BATCH)
    for cohort in schedule.cohorts:
        assert len(set(cohort.tolist())) == COHORT
        assert cohort.min() >= 0
        assert cohort.max() < CLIENTS
    for batch in schedule.rows.reshape(-1, BATCH):
        assert len(set(batch.tolist())) == BATCH
        assert batch.max() < EXAMPLES
    assert len(np.unique(schedule.rows.reshape(-1, BATCH), axis=0)) > 0.99 * ROUNDS * COHORT * STEPS


def test_the_task_is_importable_without_any_framework() -> None:
    code = (
        "import sys, benchmarks.simulation.task, benchmarks.simulation.script;"
        "sys.exit(len({'fedstrategies', 'flwr', 'ray', 'pfl', 'fedlab', 'fluke'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ------------------------------------------------------------------------ the arithmetic


def in_process(schedule: Schedule) -> np.ndarray:
    grid = CohortGrid(app("linear"), num_clients=CLIENTS, fast="require")
    return train("linear", schedule, Clock(len(schedule)), grid)


def test_the_suite_ends_where_the_plain_loop_ends() -> None:
    schedule = draw_schedule(ROUNDS)
    clock = Clock(ROUNDS)
    with single_threaded():
        weights = raw_loop.run("linear", schedule, clock)
    assert len(clock.seconds) == ROUNDS
    start = flat_weights(build_model("linear"))
    assert np.abs(weights - start).max() > 0.01
    np.testing.assert_allclose(in_process(schedule), weights, rtol=0, atol=1e-6)


def test_other_batches_end_elsewhere() -> None:
    """So that the comparison of final weights can fail."""
    schedule = draw_schedule(ROUNDS)
    others = replace(schedule, rows=np.ascontiguousarray(schedule.rows[:, ::-1]))
    with single_threaded():
        weights = raw_loop.run("linear", others, Clock(ROUNDS))
    assert np.abs(in_process(schedule) - weights).max() > 1e-3


def test_bytes_of_a_round() -> None:
    """Dense both ways: four bytes a parameter and a hundred or so around them."""
    strategy = FedAvg(
        local_steps=1,
        stepsize=STEPSIZE,
        sampling=NiceSampling(cohort_size=COHORT),
        num_clients=CLIENTS,
        seed=SEED,
        fraction_evaluate=0.0,
    )
    from flwr.app import ArrayRecord

    grid = CohortGrid(app("linear"), num_clients=CLIENTS, fast="require")
    strategy.start(grid, ArrayRecord(build_model("linear").state_dict()), num_rounds=1)
    model = COHORT * 30_730 * 4
    assert model < strategy.bytes.uplink < model + COHORT * 128
    assert model < strategy.bytes.downlink < model + COHORT * 128


# ------------------------------------------------------------------------ the harness

A, B = (System(key=key, label=key.upper(), module=key) for key in ("a", "b"))


def test_systems_run_in_turn() -> None:
    order = [(model, repeat, s.key) for model, repeat, s in interleaved(["m", "k"], [A, B], 2)]
    assert order == [
        (model, repeat, key) for model in ("m", "k") for repeat in (0, 1) for key in ("a", "b")
    ]


class Scripted(Bench):
    """A bench whose scripts are a table of what they leave behind."""

    left: dict[str, tuple[dict[str, object] | None, float]]
    ran: list[tuple[int, str]]

    def _execute(self, model: str, system: System) -> tuple[dict[str, object] | None, str]:
        result, weight = self.left[system.key]
        folder = self.work / f"{model}-{system.key}"
        folder.mkdir(exist_ok=True)
        np.save(folder / "weights.npy", np.full(3, weight, dtype=np.float32))
        self.ran.append((len(self.ran), system.key))
        return result, "" if result else "it broke"


def scripted(tmp_path: Path, left: dict[str, tuple[dict[str, object] | None, float]]) -> Scripted:
    bench = Scripted(rounds={"linear": 1}, peers=Path("none"), work=tmp_path / "work")
    object.__setattr__(bench, "left", left)
    object.__setattr__(bench, "ran", [])
    return bench


FINE: dict[str, object] = {
    "seconds": [9.0, 9.0, 1.0, 2.0, 3.0],
    "first_round_ended": 0.0,
    "peak": 1,
    "versions": {},
}
LOOP = System(key=BASELINE, label="loop", module="raw_loop")


def test_only_right_weights_have_a_time(tmp_path: Path) -> None:
    bench = scripted(
        tmp_path,
        {
            BASELINE: (FINE, 1.0),
            "a": (FINE, 1.0 + 5e-6),
            "b": (FINE, 1.0 + 5e-5),
            "c": ({"missing": "no module named c"}, 0.0),
            "d": (None, 0.0),
            "e": (FINE, float("nan")),
        },
    )
    systems = [LOOP, *(System(key=key, label=key, module=key) for key in "abcde")]
    found: list[Record] = []
    bench.run(["linear"], systems, 2, write=found.append)
    states = {record.system: record for record in found if record.repeat == 0}
    assert [states[key].status for key in "abcde"] == [
        "ok", "failed", "missing", "failed", "failed",
    ]  # fmt: skip
    assert states["a"].round_seconds == 2.0
    assert states["b"].seconds == ()
    assert "differ by 5" in states["b"].reason
    assert states["d"].reason == "it broke"
    # What was wrong once is not tried again.
    assert [r.system for r in found if r.repeat == 1] == [BASELINE, "a"]


def test_a_bench_goes_on_where_it_ended(tmp_path: Path) -> None:
    left = {BASELINE: (FINE, 1.0), "a": (FINE, 1.0)}
    found: list[Record] = []
    scripted(tmp_path, left).run(["linear"], [LOOP, A], 1, write=found.append)
    again = scripted(tmp_path, left)
    again.run(["linear"], [LOOP, A], 2, done=found[:1], write=found.append)
    assert [key for _, key in again.ran] == ["a", BASELINE, "a"]


def test_without_its_baseline_a_bench_ends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="baseline failed on linear: it broke"):
        scripted(tmp_path, {BASELINE: (None, 0.0)}).run(["linear"], [LOOP], 1, write=print)


def test_a_real_script_in_a_process_of_its_own(tmp_path: Path) -> None:
    bench = Bench(rounds={"linear": 1}, peers=tmp_path / "none", work=tmp_path)
    systems = [LOOP, System(key="pfl", label="pfl", module="pfl_simulation", peer=True)]
    found: list[Record] = []
    bench.run(["linear"], systems, 1, write=found.append)
    loop, peer = found
    assert loop.status == "ok"
    assert len(loop.seconds) == 1 + records.WARM_UP
    assert loop.first_round > loop.seconds[0]
    assert peer.status == "missing"
    assert "make bench-peers" in peer.reason
    weights = np.load(tmp_path / f"linear-{BASELINE}" / "weights.npy")
    with single_threaded():
        here = raw_loop.run("linear", Schedule.load(tmp_path / "linear.npz"), Clock(3))
    np.testing.assert_allclose(weights, here, rtol=0, atol=1e-7)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_memory_counts_children() -> None:
    code = "import sys; block = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    alone = peak_resident_bytes()
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_resident_bytes() >= alone + (64 << 20)
        child.communicate()


# ------------------------------------------------------------------------ results and tables

HEAD = Head(commit="abc1234", processor="a machine, 2 cores", rounds={"linear": 2})


def run(system: str, repeat: int, seconds: float, **more: object) -> Record:
    timed = (9.0, 9.0, seconds, seconds)
    base = Record(model="linear", system=system, repeat=repeat, status="ok", seconds=timed)
    return replace(base, distance=2e-8, peak=3 << 20, first_round=1.5, load=1.25, **more)  # type: ignore[arg-type]


CANNED = [
    run(BASELINE, 0, 0.010, versions={"torch": "2.13.0"}),
    run("cohort-1", 0, 0.008),
    run("pfl", 0, 0.020, versions={"pfl": "0.6.0"}),
    Record(model="linear", system="fedlab", repeat=0, status="missing", reason="no fedlab"),
    Record(
        model="linear",
        system="fluke",
        repeat=0,
        status="failed",
        reason="final weights differ by 0.5",
        distance=0.5,
    ),
    run(BASELINE, 1, 0.020),
    run("cohort-1", 1, 0.018),
    run("pfl", 1, 0.030),
    run(BASELINE, 2, 0.010),
]


def row(table: str, label: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratios_are_taken_within_a_repeat() -> None:
    assert ratios(CANNED, "linear", "pfl", BASELINE) == pytest.approx([2.0, 1.5])
    assert ratios(CANNED, "linear", "pfl", "cohort-1") == pytest.approx([2.5, 30 / 18])
    assert ratios(CANNED, "cnn", "pfl", BASELINE) == []


def test_the_table_says_what_the_records_say() -> None:
    table = section(HEAD, CANNED)
    loop = row(table, "plain PyTorch loop")
    assert loop[1:] == ["1", "10 (10 to 20)", "1", "1.5 s", "3 MiB", "2e-08"]
    assert row(table, "pfl 0.6.0")[2:4] == ["25 (20 to 30)", "1.75 (1.50 to 2.00)"]
    assert row(table, "FedLab, standalone")[2] == "not installed"
    assert row(table, "fluke")[2] == "failed: final weights differ by 0.5"
    assert row(table, "`RayGrid`, two actors")[2] == "not measured"
    assert "abc1234" in table
    assert "Interleaved: 3 repeats of" in " ".join(table.split())
    assert "CNN, 1,626,442" not in table


def test_targets_are_judged_whichever_way_they_fall() -> None:
    def verdict(seconds: float) -> str:
        found = section(HEAD, [run(BASELINE, 0, 0.010), run("cohort-1", 0, seconds)])
        (line,) = [line for line in found.splitlines() if "| <= 1 |" in line]
        return line.split("|")[3].strip()

    assert verdict(0.008) == "0.800: yes"
    assert verdict(0.012) == "1.200: no"


def test_results_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    records.begin(path, HEAD)
    for record in CANNED:
        records.append(path, record)
    assert records.read(path) == (HEAD, CANNED)


@pytest.mark.parametrize("content", ["", "no json\n", json.dumps({"commit": "x"}) + "\n"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="is not a file of results"):
        records.read(path)


def test_versions_of_what_is_installed() -> None:
    assert list(packages(("torch", "no-such-distribution"))) == ["Python", "torch"]


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before <!-- a -->old<!-- b --> after", encoding="utf-8")
    replace_between(page, "<!-- a -->", "<!-- b -->", "new")
    assert page.read_text(encoding="utf-8") == "before <!-- a -->new<!-- b --> after"
    with pytest.raises(ValueError, match="must each stand there once"):
        replace_between(page, "<!-- a -->", "<!-- c -->", "newer")


# ------------------------------------------------------------------------ page and commands


def test_every_script_of_the_catalogue_exists() -> None:
    folder = ROOT / "benchmarks" / "simulation" / "systems"
    assert {s.module for s in SYSTEMS} == {p.stem for p in folder.glob("[a-z]*.py")}
    assert len({s.key for s in SYSTEMS}) == len(SYSTEMS)
    assert SYSTEMS[0].key == BASELINE


def test_every_benchmark_has_its_section_and_its_line_in_make_bench() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("python -m benchmarks.")]
    for command in commands:
        module = shlex.split(command)[2]
        assert f"-m {module} " in makefile, module
    for name in re.findall(r"<!-- (\w+):begin -->", page):
        assert page.count(f"<!-- {name}:begin -->") == page.count(f"<!-- {name}:end -->") == 1
    assert len(commands) == len(re.findall(r":begin -->", page)) == 7
