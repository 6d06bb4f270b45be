"""Two processes never write one folder of results."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from fedstrategies.cli.main import _exit_code
from fedstrategies.experiment import comparison, folder_lock, session, sweep
from fedstrategies.experiment.comparison import compare, comparison_configs
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.folder_lock import FolderLock
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.sweep import run_sweep
from fedstrategies.experiment.sweep_grid import sweep_of

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "draw_picture", lambda directory: None)
    monkeypatch.setattr(comparison, "draw_comparison", lambda curves, path, *, title: None)
    monkeypatch.setattr(sweep, "_draw", lambda sweep, results: None)


@pytest.fixture
def given(libsvm_file: Path, tmp_path: Path) -> dict[str, object]:
    out = str(tmp_path / "run")
    return {"dataset": str(libsvm_file), "clients": 4, "rounds": 4, "quiet": True, "out": out}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_second_run_in_the_folder_of_one_that_runs_is_refused(how, given, tmp_path):
    values = {**given, "algorithm": "gd", "checkpoint-every": 1}
    tried = []

    def second(record: dict[str, float]) -> None:
        if record["round"] == 2:
            with pytest.raises(ConfigError, match=r"another process is writing .*run"):
                run(config_from_mapping({**values, how: True}))
            tried.append(record)

    assert run(config_from_mapping(values), observers=[second]).status == "done"
    assert tried
    out = tmp_path / "run"
    assert [one["round"] for one in read_history(out / "history.jsonl")] == [0, 1, 2, 3, 4]
    assert not (out / ".lock").exists()
    assert run(config_from_mapping({**values, how: True})).status == "done"


def test_a_process_that_is_killed_lets_go(given, tmp_path, capsys):
    out, begun = tmp_path / "run", ["run", "gd", f"--dataset={given['dataset']}", "--clients=4"]
    out.mkdir()
    begun += ["--rounds=2", "--quiet", f"--out={out}"]
    holder = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, out / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert _exit_code(begun) == 2
        error = capsys.readouterr().err
        assert "another process is writing" in error
        assert error.count("\n") == 1
        assert [path.name for path in out.iterdir()] == [".lock"]
        holder.kill()
    assert (out / ".lock").exists()
    assert _exit_code(begun) == 0
    assert Summary.read(out).status == "done"
    assert not (out / ".lock").exists()


def test_a_run_that_fails_or_is_refused_lets_go(given, tmp_path):
    def fails(record: dict[str, float]) -> None:
        raise RuntimeError("failed")

    config = config_from_mapping({**given, "algorithm": "gd"})
    with pytest.raises(RuntimeError, match="failed"):
        run(config, observers=[fails])
    FolderLock(tmp_path / "run").release()
    with pytest.raises(ConfigError, match="not empty"):
        run(config)
    FolderLock(tmp_path / "run").release()


def test_a_lock_on_a_file_that_was_deleted_meanwhile_counts_for_nothing(tmp_path, monkeypatch):
    lock, times = folder_lock._lock, []

    def late(descriptor: int, path: Path) -> None:
        if not times:  # the holder ends between our opening and our locking
            path.unlink()
        times.append(descriptor)
        lock(descriptor, path)

    monkeypatch.setattr(folder_lock, "_lock", late)
    with FolderLock(tmp_path):
        assert len(times) == 2
        with pytest.raises(ConfigError, match="another process"):
            FolderLock(tmp_path)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with FolderLock(tmp_path):
        assert "this file system has no locks (No locks available)" in caplog.text


def test_a_comparison_is_not_replaced_while_it_runs(given, tmp_path):
    tried = []

    @contextmanager
    def show(name, config):
        if name == "ef21":  # gd has ended, its own folder is free
            again = comparison_configs(["gd"], {**given, "overwrite": True})
            with pytest.raises(ConfigError, match="another process"):
                compare(again, show=lambda name, config: nullcontext([]))
            tried.append(name)
        yield []

    configs = comparison_configs(["gd", "ef21"], {**given, "compressor": "top-k:k=1"})
    assert compare(configs, show=show).ok
    assert tried
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_sweep_is_not_replaced_while_it_runs(given, tmp_path):
    tried = []

    def again(cell) -> None:
        with pytest.raises(ConfigError, match="another process"):
            run_sweep(grid, show=lambda cells, kept: nullcontext(tried.append), overwrite=True)
        tried.append("refused")

    grid = sweep_of("gd", ["stepsize=0.01,0.02"], given)
    results = run_sweep(grid, show=lambda cells, kept: nullcontext(again))
    assert tried == ["refused", "refused"]
    assert [cell.status for cell in results.cells] == ["done", "done"]
