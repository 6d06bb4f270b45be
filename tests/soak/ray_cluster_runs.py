"""Experiments as processes of their own: in-process, on RayGrid, on Flower's runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias
from urllib.request import urlopen

from safetensors.numpy import load_file

from fedstrategies.experiment import read_history

__all__ = ["FLOWER", "Run", "Settings", "difference", "end_superlink", "start", "start_superlink"]

Settings: TypeAlias = Mapping[str, str | int | float | bool]
"""Of an experiment, by the names that the command line and the apps have."""

ROOT = Path(__file__).parents[2]
FLOWER = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Run:
    """One of them, at work or done.

    Attributes
    ----------
    out : Path
        The folder of its results.
    homes : Path
        The folder of `ray_cluster_grid`'s notes.
    began : float
        When it was started, by the system's clock.
    """

    def __init__(
        self, command: list[str], folder: Path, name: str, environment: Mapping[str, str]
    ) -> None:
        self.out, self.homes = folder / name, folder / f"{name}-homes"
        self._output = folder / f"{name}.txt"
        for left in (
            self.out,
            self.homes,
        ):  # by an earlier campaign, which must not be taken for it
            shutil.rmtree(left, ignore_errors=True)
        self.began = time.time()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
            )

    @property
    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def rounds(self) -> int:
        """Rounds done."""
        path = self.out / "history.jsonl"
        return max(len(read_history(path)) - 1, 0) if path.exists() else 0

    @property
    def over(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait_for_round(self, round: int, *, within: float = 400.0) -> None:
        """Wait until so many rounds are done.

        Raises
        ------
        RuntimeError
            If it ends before, or takes longer.
        """
        deadline = time.monotonic() + within
        while self.rounds < round:
            if self.over or time.monotonic() > deadline:
                raise RuntimeError(f"{self.out.name}: {self.rounds} rounds only\n{self.output}")
            time.sleep(0.02)

    def wait(self, *, within: float) -> bool:
        """Whether it ends by itself within so many seconds; it is killed otherwise."""
        try:
            self._process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def summary(self) -> dict[str, object]:
        """What it wrote at its end, empty if nothing."""
        path = self.out / "summary.json"
        found: dict[str, object] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return found

    def failures(self) -> dict[int, int]:
        """Clients that failed, by round; rounds in which none did are left out."""
        if not (self.out / "history.jsonl").exists():
            return {}
        records = read_history(self.out / "history.jsonl")
        return {int(r["round"]): int(r["failures"]) for r in records if r.get("failures")}

    def last(self, key: str) -> float:
        """A value of its last record."""
        return float(read_history(self.out / "history.jsonl")[-1].get(key, 0))


def start(
    path: str, settings: Settings, folder: Path, name: str, *, address: str = "", port: int = 0
) -> Run:
    """Start an experiment.

    Parameters
    ----------
    path : {"in-process", "RayGrid", "flwr run", "run_simulation"}
        What runs it: the in-process grid, actors, the app of `simulations/` by ``flwr run``,
        ``fedstrategies run --backend flower``.
    settings : mapping
        The experiment.
    folder, name : Path, str
        Where its results and its output go.
    address : str
        Of the Ray cluster.
    port : int
        For the SuperLink of ``flwr run``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = str((folder / name).absolute())
    environment = dict(os.environ) | FLOWER
    if path == "RayGrid":
        given = {**settings, "backend": "ray", "ray-address": address, "out": out, "quiet": True}
        file = folder / f"{name}.json"
        file.write_text(json.dumps(given), encoding="utf-8")
        command = [sys.executable, "-m", "tests.soak.ray_cluster_grid"]
        command += [str(file), str(folder / f"{name}-homes")]
        return Run(command, folder, name, environment)
    if path == "flwr run":
        app = ROOT / "simulations" / str(settings["algorithm"])
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        overrides += [f'output-dir="{out}"', "quiet=true"]
        command = [str(Path(sys.executable).with_name("flwr")), "run", str(app), "--stream"]
        command += ["--run-config", " ".join(overrides)]
        command += ["--federation-config"]
        command += [f"num-supernodes={settings['clients']} client-resources-num-cpus=1"]
        return Run(command, folder, name, _flower_environment(folder, address, port))
    backend = "cohort" if path == "in-process" else "flower"
    if address:
        environment["RAY_ADDRESS"] = address
    command = [sys.executable, "-m", "fedstrategies", "run", str(settings["algorithm"])]
    command += ["--backend", backend, "--out", out, "--quiet"]
    for key, value in settings.items():
        if key != "algorithm":
            command += [f"--{key}", str(value)]
    return Run(command, folder, name, environment)


def difference(one: Run, other: Run) -> float | None:
    """The largest difference of two final models; None if one of them has none.

    The files' bytes are compared first: 0.0 says that all bits are equal.
    """
    files = [run.out / "model.safetensors" for run in (one, other)]
    if not all(file.exists() for file in files):
        return None
    ours, theirs = (load_file(file) for file in files)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{files[0]} and {files[1]} are models of different kinds")
    return max(float(abs(ours[name] - theirs[name]).max()) for name in ours)


def start_superlink(folder: Path, address: str, port: int) -> None:
    """Start the SuperLink that ``flwr run`` would start, which gives it 15 s and no more.

    Raises
    ------
    RuntimeError
        If it does not answer within two minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("flower-superlink")), "--insecure"]
    command += ["--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--control-api-address", f"127.0.0.1:{port + 1}"]
    with (folder / "superlink.txt").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_flower_environment(folder, address, port),
        )
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=5.0):
            return
        time.sleep(0.5)
    raise RuntimeError(f"no SuperLink:\n{(folder / 'superlink.txt').read_text()}")


def _flower_environment(folder: Path, address: str, port: int) -> dict[str, str]:
    environment = dict(os.environ) | FLOWER
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    return environment | {
        "RAY_ADDRESS": address,
        "FLWR_HOME": str((folder / "flwr").absolute()),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
    }


def end_superlink(folder: Path) -> None:
    """End the SuperLink and what it has started, by their process ids.

    Their environment names this folder, and no other process's does.
    """
    mark = f"FLWR_HOME={(folder / 'flwr').absolute()}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile, or is not ours
        if mark in environment and int(entry.name) != os.getpid():
            with suppress(ProcessLookupError):  # a child of one that was ended just now
                os.kill(int(entry.name), 15)
