"""A run that was killed and goes on is the run that was not killed, bit for bit."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
from io import FileIO
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedstrategies import durable
from fedstrategies.checkpoint import Checkpoints
from fedstrategies.cli.main import _exit_code
from fedstrategies.experiment import datasets, history_file, session
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.views import versions

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
    monkeypatch.setattr(session, "draw_picture", lambda directory: None)


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


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    before = content(tmp_path / "cut")
    with pytest.raises(ConfigError, match="no checkpoint that can be used"):
        run(make("cut", **{**options, "resume": True}))
    assert "its checksum does not fit" in caplog.text
    assert content(tmp_path / "cut") == before


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
    longer = run(make("run", **CASES["efbv"], rounds=9, resume=True, checkpoint_every=2))
    assert {**longer.last, "seconds": 0} == {**whole.last, "seconds": 0}
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match="of round 9, and the run is to have 3 rounds"):
        run(make("run", **CASES["efbv"], rounds=3, resume=True, checkpoint_every=2))
    assert content(tmp_path / "run") == before
    assert _exit_code(["run", "efbv", "--resume", f"--out={tmp_path / 'run'}", "--quiet"]) == 0


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


def test_what_began_with_overwrite_can_be_resumed(make, tmp_path, capsys):
    out = tmp_path / "run"
    for _ in range(2):
        run(make("run", **CASES["gd"], rounds=2, checkpoint_every=1, overwrite=True))
    assert "overwrite = false" in (out / "config.toml").read_text()
    assert _exit_code(["run", "gd", "--resume", f"--out={out}", "--rounds=3", "--quiet"]) == 0
    config = (out / "config.toml").read_text()  # as versions wrote it that kept the option
    (out / "config.toml").write_text(config.replace("overwrite = false", "overwrite = true"))
    assert "overwrite = true" in (out / "config.toml").read_text()
    assert _exit_code(["run", "gd", "--resume", f"--out={out}", "--rounds=4", "--quiet"]) == 0
    assert Summary.read(out).last["round"] == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("left", ["", "rounds = 2\n"])
def test_a_configuration_that_names_no_algorithm_is_refused(left, make, tmp_path, capsys):
    run(make("run", **CASES["gd"], rounds=2, checkpoint_every=1))
    (tmp_path / "run" / "config.toml").write_text(left)
    before = content(tmp_path / "run")
    assert _exit_code(["run", "gd", "--resume", f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "it names no algorithm" in error
    assert error.count("\n") == 1
    assert content(tmp_path / "run") == before


def test_a_summary_of_an_earlier_end_is_gone_while_the_run_goes_on(make, tmp_path):
    run(make("run", **CASES["gd"], rounds=3, checkpoint_every=1))
    there = []

    def look(record: dict[str, float]) -> None:
        there.append((tmp_path / "run" / "summary.json").exists())

    run(make("run", **CASES["gd"], rounds=6, checkpoint_every=1, resume=True), observers=[look])
    assert there == [False] * 3
    assert Summary.read(tmp_path / "run").last["round"] == 6


def test_an_interruption_before_the_checkpoint_is_accepted_changes_nothing(make, tmp_path):
    run(make("run", **CASES["gd"], rounds=3, checkpoint_every=1))
    before = content(tmp_path / "run")
    held = session.Session(prepare(make("run", **CASES["gd"], rounds=9, resume=True)), ())

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held.guarded(interrupted)
    assert content(tmp_path / "run") == before


def test_other_versions_are_told_of_once(make, tmp_path, caplog):
    run(make("run", **CASES["gd"], rounds=2, checkpoint_every=1))
    path = tmp_path / "run" / "config.toml"
    now = versions()
    path.write_text(path.read_text().replace(f'torch = "{now["torch"]}"', 'torch = "1.13.1"'))
    run(make("run", **CASES["gd"], rounds=3, checkpoint_every=1, resume=True))
    told = [one.getMessage() for one in caplog.records if "other versions" in one.getMessage()]
    assert len(told) == 1
    assert f"(torch 1.13.1 -> {now['torch']})" in told[0]
    run(make("run", **CASES["gd"], rounds=4, checkpoint_every=1, resume=True))
    assert len([one for one in caplog.records if "other versions" in one.getMessage()]) == 1


@pytest.fixture
def read_anew():
    """Data are read once in a process; another process would read them anew."""

    def clear() -> None:
        for cached in (datasets._read, datasets._digest, load_problem):
            cached.cache_clear()

    yield clear
    clear()


def test_data_that_changed_are_refused(make, libsvm_file, tmp_path, read_anew):
    run(make("run", **CASES["gd"], rounds=2, checkpoint_every=1))
    intact = libsvm_file.read_text()
    packed = gzip.compress(intact.encode())
    libsvm_file.write_text(intact.replace("1:", "1:1", 1))
    read_anew()
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has changed since the run in .* began"):
        run(make("run", **CASES["gd"], rounds=3, checkpoint_every=1, resume=True))
    assert content(tmp_path / "run") == before
    libsvm_file.write_bytes(packed)  # the same rows
    read_anew()
    assert run(make("run", **CASES["gd"], rounds=3, resume=True)).last["round"] == 3


def test_bundled_data_need_no_digest(make):
    assert datasets.digest_of_data(make("run", algorithm="gd", dataset="digits").problem) is None


def test_all_that_a_checkpoint_needs_is_on_the_disk_before_it(make, tmp_path, monkeypatch):
    synced: set[int] = set()
    at_checkpoint: list[set[int]] = []
    fsync, write = os.fsync, Checkpoints.write

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def writes(self: Checkpoints, *arguments: object) -> Path:
        at_checkpoint.append(set(synced))
        return write(self, *arguments)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Checkpoints, "write", writes)
    out = tmp_path / "new" / "deep" / "run"
    run(make("new/deep/run", **CASES["gd"], rounds=2, checkpoint_every=1))
    needed = [out / "config.toml", out / "history.jsonl", out, *list(out.parents)[:3]]
    for path in needed:
        assert path.stat().st_ino in at_checkpoint[0], path


class Full(FileIO):
    """A file on a disc that is nearly full: it takes 30 bytes at a time, and 400 in all."""

    def write(self, data) -> int:
        if self.tell() >= 400:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data)[:30])


def test_a_full_disc_is_one_line_and_the_run_goes_on_after_it(make, tmp_path, monkeypatch, capsys):
    out, options = tmp_path / "run", {**CASES["efbv"], "checkpoint_every": 1}
    whole = run(make("whole", **options))
    run(make("run", **options, rounds=1))
    config = (out / "config.toml").read_bytes()
    resumed = ["run", "efbv", "--resume", f"--out={out}", f"--rounds={ROUNDS}", "--quiet"]
    with monkeypatch.context() as full:
        full.setattr(history_file, "FileIO", Full)
        assert _exit_code(resumed) == 1
        error = capsys.readouterr().err
        assert f"{out / 'history.jsonl'}: cannot be written (No space left on device)" in error
        assert "make room, then go on with --resume" in error
        assert error.count("\n") == 1
        assert Summary.read(out).status == "failed"
        full.setattr(durable, "FileIO", Full)
        before = (out / "config.toml").read_bytes()
        assert _exit_code(resumed) == 1  # config.toml is longer than that
        error = capsys.readouterr().err
        assert f"{out / 'config.toml'}: cannot be written (No space" in error
        assert error.count("\n") == 1
        assert (out / "config.toml").read_bytes() == before != config
        assert not (out / "summary.json").exists()
    assert _exit_code(resumed) == 0
    # The last round of what was to be a shorter run has its accuracy measured as well.
    assert records(out, "accuracy") == records(tmp_path / "whole", "accuracy")
    assert {**Summary.read(out).last, "seconds": 0} == {**whole.last, "seconds": 0}


@pytest.mark.parametrize(
    "said",
    [
        lambda path: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        lambda path: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)),
        lambda path: OSError(errno.EIO, "No space left (os error 28)", str(path)),  # safetensors
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_one_line(said, make, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    run(make("run", **CASES["gd"], rounds=2, checkpoint_every=1))

    def full(self: Checkpoints, *arguments: object) -> Path:
        raise said(self.directory / "round-000000003.safetensors")

    monkeypatch.setattr(Checkpoints, "write", full)
    assert _exit_code(["run", "gd", "--resume", f"--out={out}", "--rounds=4", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert str(out) in error
    assert "No space left" in error
    assert "make room, then go on with --resume" in error
    assert error.count("\n") == 1
    assert Summary.read(out).status == "failed"
    assert Summary.read(out).last["round"] == 3


def test_an_error_of_something_else_stays_what_it_is(make):
    def lost(record: dict[str, float]) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    with pytest.raises(ConnectionResetError):
        run(make("run", **CASES["gd"], rounds=2), observers=[lost])


def test_a_file_where_checkpoints_go_is_one_line(make, tmp_path, capsys):
    run(make("run", **CASES["gd"], rounds=2))
    (tmp_path / "run" / "checkpoints").write_text("mine")
    begun = ["run", "gd", "--resume", f"--out={tmp_path / 'run'}", "--checkpoint-every=1"]
    assert _exit_code(begun) == 2
    error = capsys.readouterr().err
    assert "checkpoints is not a folder; move it away" in error
    assert error.count("\n") == 1
