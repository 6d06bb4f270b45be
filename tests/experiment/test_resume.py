"""A run that was killed and goes on is the run that was not killed, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedstrategies.cli.main import _exit_code
from fedstrategies.experiment import session
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run

ROUNDS, STOP, EVERY = 12, 7, 3

RAND_K = {"compressor": "rand-k:k=2"}
CASES = {
    "efbv": {"algorithm": "efbv", **RAND_K},
    "efbv, part of the clients": {"algorithm": "efbv", **RAND_K, "participation": 2},
    "ef21, compressed downlink": {
        "algorithm": "ef21",
        "compressor": "top-k:k=2",
        "downlink-compressor": "top-k:k=1",
        "participation": 2,
    },
    "diana": {"algorithm": "diana", **RAND_K},
    "gd": {"algorithm": "gd"},
    "scafflix": {"algorithm": "scafflix", "alpha": 0.3, "participation": 2, "p": 0.5},
    "scafflix with adam": {
        "algorithm": "scafflix",
        "alpha": 0.5,
        "participation": 2,
        "server-optimizer": "adam:lr=0.1",
    },
    "flix": {"algorithm": "flix", "alpha": 0.5},
    **{
        f"sppm, {solver}": {
            "algorithm": "sppm",
            "participation": 2,
            "prox-stepsize": 10.0,
            "inner-rounds": 5,
            "solver": solver,
        }
        for solver in ("lbfgs", "cg", "gd", "local-gd:steps=2", "adam:lr=0.1")
    },
    "sppm, l1": {"algorithm": "sppm", "inner-rounds": 5, "solver": "gd", "prox": "l1:0.01"},
    "localgd": {"algorithm": "localgd", "participation": 2},
    "fedprox": {"algorithm": "fedprox", "participation": 2},
    "fedp3": {
        "algorithm": "fedp3",
        "dataset": "digits",
        "model": "mlp",
        "width": 4,
        "l2": 0.0,
        "stepsize": 0.1,
        "layers": "opu2",
        "keep": 0.7,
        "batch-size": 64,
    },
    "private": {
        "algorithm": "efbv",
        **RAND_K,
        "epsilon": 5.0,
        "delta": 1e-3,
        "max-grad-norm": 1.0,
        "stepsize": 0.1,
    },
}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_draw", lambda directory: None)


@pytest.fixture
def make(libsvm_file: Path, tmp_path: Path):
    def build(folder: str, **options: object):
        values = {
            "dataset": str(libsvm_file),
            "clients": 4,
            "rounds": ROUNDS,
            "quiet": True,
            "out": str(tmp_path / folder),
            **{key.replace("_", "-"): value for key, value in options.items()},
        }
        return config_from_mapping(values)

    return build


def killed(config) -> None:
    """Leave behind what a process leaves that is killed in a round after its last checkpoint."""

    def kill(record: dict[str, float]) -> None:
        if record["round"] == STOP:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(config, observers=[kill])
    out = Path(config.out)
    for name in ("summary.json", "model.safetensors"):
        (out / name).unlink()
    with (out / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 8, "loss": 1e9}\n{"round": 9, "lo')


def records(out: Path, *leave_out: str) -> list[dict[str, float]]:
    history = read_history(out / "history.jsonl")
    return [
        {key: value for key, value in one.items() if key not in ("seconds", *leave_out)}
        for one in history
    ]


@pytest.mark.parametrize("fast", ["auto", "never"])
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(name, fast, make, tmp_path):
    options = {**CASES[name], "fast": fast}
    whole = run(make("whole", **options))
    killed(make("cut", **options, checkpoint_every=EVERY))
    resumed = run(make("cut", **options, resume=True))
    assert resumed.status == whole.status == "done"
    # Those sent their memories again did get more bytes: counted apart, and nowhere else.
    assert records(tmp_path / "cut", "recovery_bytes") == records(
        tmp_path / "whole", "recovery_bytes"
    )
    here, there = (load_file(tmp_path / one / "model.safetensors") for one in ("cut", "whole"))
    assert here.keys() == there.keys()
    assert all(here[key].equal(there[key]) for key in here)
    assert resumed.incidents == whole.incidents
    assert resumed.privacy == whole.privacy
    if fast == "auto":
        assert resumed.last["recovery_bytes"] == whole.last["recovery_bytes"] == 0


def test_memories_sent_again_are_counted_as_recovery(make, tmp_path):
    options = {**CASES["efbv"], "fast": "never"}
    run(make("cut", **{**options, "rounds": 6, "checkpoint-every": 3}))
    resumed = run(make("cut", **{**options, "resume": True}))
    assert resumed.last["recovery_bytes"] > 4 * 8 * 6


def test_the_newest_checkpoint_that_can_be_used_is_used(make, tmp_path, caplog):
    options = CASES["efbv"]
    whole = run(make("whole", **options))
    run(make("other", **{**options, "seed": 5, "rounds": 8, "checkpoint-every": 8}))
    run(make("cut", **{**options, "rounds": 8, "checkpoint-every": 4}))
    kept = tmp_path / "cut" / "checkpoints"
    newest = kept / "round-000000008.safetensors"
    intact = newest.read_bytes()
    shutil.copy(tmp_path / "other" / "checkpoints" / newest.name, newest)
    foreign = run(make("cut", **{**options, "resume": True}))
    assert "seed = 5, this one has 0" in caplog.text
    newest.write_bytes(intact[: len(intact) // 2])
    cut = run(make("cut", **{**options, "resume": True}))
    assert "cut, damaged or no checkpoint" in caplog.text
    for one in (foreign, cut):
        assert {**one.last, "seconds": 0} == {**whole.last, "seconds": 0}
    flipped = bytearray(intact)
    flipped[-3] ^= 1
    for path in kept.iterdir():
        path.write_bytes(flipped)
    before = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="no checkpoint that can be used"):
        run(make("cut", **{**options, "resume": True}))
    assert "its checksum does not fit" in caplog.text
    unchanged = {path: path.read_bytes() for path in before}
    del before[tmp_path / "cut" / "config.toml"], unchanged[tmp_path / "cut" / "config.toml"]
    assert unchanged == before


def test_only_the_last_two_are_kept(make, tmp_path):
    run(make("run", **CASES["gd"], checkpoint_every=2, rounds=7))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["round-000000006.safetensors", "round-000000007.safetensors"]
    run(make("run", **CASES["gd"], overwrite=True, rounds=2))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_without_a_checkpoint_yet_begins_anew(make, tmp_path, caplog):
    whole = run(make("whole", **CASES["efbv"]))
    fresh = run(make("fresh", **CASES["efbv"], resume=True))
    assert "no checkpoint yet" in caplog.text
    assert {**fresh.last, "seconds": 0} == {**whole.last, "seconds": 0}


def test_more_rounds_and_a_run_that_is_over(make, tmp_path):
    whole = run(make("whole", **CASES["efbv"], rounds=9))
    run(make("run", **CASES["efbv"], rounds=5, checkpoint_every=2))
    again = run(make("run", **CASES["efbv"], rounds=5, resume=True))
    assert again.last["round"] == 5
    longer = run(make("run", **CASES["efbv"], rounds=9, resume=True))
    assert {**longer.last, "seconds": 0} == {**whole.last, "seconds": 0}
    with pytest.raises(ConfigError, match="of round 5, and the run is to have 3 rounds"):
        run(make("run", **CASES["efbv"], rounds=3, resume=True))


def test_a_run_that_reached_its_target_stays_ended(make):
    options = {**CASES["gd"], "target-gap": 1e-2, "rounds": 400, "checkpoint-every": 100}
    ended = run(make("run", **options))
    assert ended.last["round"] < 400
    again = run(make("run", **options, resume=True))
    assert again.last == ended.last
    assert again.reached == ended.reached


def test_another_experiment_in_the_folder_is_refused(make, tmp_path):
    run(make("run", **CASES["efbv"], rounds=2, checkpoint_every=1))
    with pytest.raises(ConfigError, match=r"resume: seed was 0 in .*run and is 3 now"):
        run(make("run", **CASES["efbv"], seed=3, resume=True))
    with pytest.raises(ConfigError, match="holds a run of efbv, not gd"):
        run(make("run", **CASES["gd"], resume=True))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run"):
        run(make("full", **CASES["gd"], resume=True))
    with pytest.raises(ConfigError, match="not both"):
        make("run", **CASES["gd"], resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="--out is needed"):
        make("run", **CASES["gd"], resume=True, out="")
    with pytest.raises(ConfigError, match="add --resume to go on"):
        run(make("run", **CASES["efbv"]))


def test_the_command_line_reads_the_options_of_the_run(make, libsvm_file, tmp_path, capsys):
    out = str(tmp_path / "run")
    given = [f"--dataset={libsvm_file}", "--clients=4", "--compressor=top-k:k=1", "--quiet"]
    begun = ["run", "ef21", *given, "--rounds=4", "--checkpoint-every=2", f"--out={out}"]
    assert _exit_code(begun) == 0
    assert _exit_code(["run", "ef21", "--resume", f"--out={out}", "--rounds=6", "--quiet"]) == 0
    assert Summary.read(Path(out)).last["round"] == 6
    assert _exit_code(["run", "ef21", "--resume", f"--out={out}", "--clients=5"]) == 2
    assert "clients was 4" in capsys.readouterr().err
