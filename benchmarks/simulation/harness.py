"""Runs the systems in turn, and believes a clock only where the weights are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import load
from benchmarks.simulation.catalogue import BASELINE, System
from benchmarks.simulation.records import WARM_UP, Record
from benchmarks.simulation.schedule import draw_schedule

__all__ = ["TOLERANCE", "Bench", "interleaved"]

TOLERANCE = 1e-5
"""Largest difference of a final weight from the plain loop's."""

_ROOT = Path(__file__).parents[2]
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_SILENCE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def interleaved(
    models: Sequence[str], systems: Sequence[System], repeats: int
) -> Iterator[tuple[str, int, System]]:
    """(model, repeat, system) in the order of running: A B C, A B C, ... for each model.

    What slows the machine for a while then falls on all systems alike, and a ratio compares runs
    that are neighbours.
    """
    for model in models:
        for repeat in range(repeats):
            for system in systems:
                yield model, repeat, system


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Runs scripts, each in a process of its own.

    Attributes
    ----------
    rounds : dict of str to int
        Timed rounds of each model; the warm-up comes on top.
    peers : Path
        Python of the environment that holds the other frameworks.
    work : Path
        Folder for the schedules and for what the scripts write; kept, so that a bench which is
        gone on with still has the baseline's weights.
    timeout : float
        Seconds after which a run has failed.
    """

    rounds: dict[str, int]
    peers: Path
    work: Path
    timeout: float = 1800.0

    def run(
        self,
        models: Sequence[str],
        systems: Sequence[System],
        repeats: int,
        *,
        done: Sequence[Record] = (),
        write: Callable[[Record], None],
    ) -> None:
        """All runs that are not ``done``; each record is given to ``write`` at once.

        A system that was missing or wrong once is not asked again for that model.

        Raises
        ------
        RuntimeError
            If the baseline fails: there is nothing to compare with.
        """
        known = {(record.model, record.repeat, record.system) for record in done}
        out = {(record.model, record.system) for record in done if record.status != "ok"}
        self.work.mkdir(parents=True, exist_ok=True)
        for model in models:
            draw_schedule(self.rounds[model] + WARM_UP).save(self.work / f"{model}.npz")
        for model, repeat, system in interleaved(models, systems, repeats):
            if (model, repeat, system.key) in known or (model, system.key) in out:
                continue
            record = self._run(model, repeat, system)
            if record.status != "ok":
                if system.key == BASELINE:
                    raise RuntimeError(f"the baseline failed on {model}: {record.reason}")
                out.add((model, system.key))
            write(record)

    def _run(self, model: str, repeat: int, system: System) -> Record:
        run = partial(Record, model=model, system=system.key, repeat=repeat, load=round(load(), 2))
        begun = time.time()
        result, reason = self._execute(model, system)
        if result is None:
            return run(status="failed", reason=reason)
        if "missing" in result:
            return run(status="missing", reason=str(result["missing"]))
        distance = self._distance(model, system)
        if distance > TOLERANCE:
            reason = f"final weights differ by {distance:.2g}"
            return run(status="failed", reason=reason, distance=distance)
        return run(
            status="ok",
            seconds=tuple(result["seconds"]),
            first_round=result["first_round_ended"] - begun,
            peak=result["peak"],
            distance=distance,
            versions=result["versions"],
        )

    def _execute(self, model: str, system: System) -> tuple[dict[str, Any] | None, str]:
        """What the script wrote, or None and the last line it said."""
        if system.peer and not self.peers.exists():
            return {"missing": f"no {self.peers}; run make bench-peers"}, ""
        python = self.peers if system.peer else Path(sys.executable)
        folder = self.work / f"{model}-{system.key}"
        folder.mkdir(exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        command = [str(python), "-m", f"benchmarks.simulation.systems.{system.module}"]
        command += ["--model", model, "--schedule", str(self.work / f"{model}.npz")]
        command += ["--out", str(folder), *system.arguments]
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), **_SILENCE}
        environment["PYTHONPATH"] = str(_ROOT)
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            try:
                subprocess.run(
                    command,
                    cwd=_ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return None, f"no end after {self.timeout:.0f} s"
        written = folder / "result.json"
        if not written.exists():
            lines = (folder / "log.txt").read_text(encoding="utf-8").split("\n")
            return None, next((line for line in reversed(lines) if line.strip()), "no output")
        return json.loads(written.read_text(encoding="utf-8")), ""

    def _distance(self, model: str, system: System) -> float:
        mine, reference = (
            np.load(self.work / f"{model}-{key}" / "weights.npy", allow_pickle=False)
            for key in (system.key, BASELINE)
        )
        if mine.shape != reference.shape:
            return float("inf")
        difference = float(np.abs(mine.astype(np.float64) - reference).max())
        return difference if np.isfinite(difference) else float("inf")
