"""Runs that are killed at random moments and resumed until they are done, against undisturbed ones.

    python -m tests.soak.kills [--kills 50] [--results FILE] [--output docs/reliability.md]

Each run is a process of its own, ended by SIGKILL at moments drawn from a seed: while it starts,
in a round, while it writes a checkpoint. Results that the file has already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks.machine import packages, processor
from benchmarks.pages import replace_between
from tests.soak.kills_cases import CASES, RAY_PORT, Case, difference, experiment
from tests.soak.ray_cluster_nodes import RayCluster

BEGIN, END = "<!-- begin kills -->", "<!-- end kills -->"
_DURING_START = 0.2
_PATIENCE = 600.0


class Killer:
    """Starts runs in processes of their own, and ends them.

    Parameters
    ----------
    seed : str
        Of the moments.
    """

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        # Starting a run costs a fork, not an import of torch: kills can be many.
        self._context.set_forkserver_preload(["tests.soak.kills_cases"])
        self.kills = 0
        self.kinds = {"while starting": 0, "in its rounds": 0}

    def start(self, case: Case, out: Path) -> ForkServerProcess:
        """A run that goes on with what is in its folder."""
        process = self._context.Process(target=experiment, args=(case, str(out), True))
        process.start()
        return process

    def disturb(self, case: Case, out: Path, *, rounds_seconds: float, kills: int) -> None:
        """Kill and resume a run up to ``kills`` times, then let it come to its end."""
        for _ in range(kills):
            before = _length(out)
            began = time.monotonic()
            process = self.start(case, out)
            early = self._draw.random() < _DURING_START
            # On average a fiftieth of the run's rounds pass between two kills.
            wait = self._draw.uniform(0.0, 2.0 * rounds_seconds / kills)
            while process.is_alive() and not early and _length(out) == before:
                time.sleep(0.002)
                assert time.monotonic() - began < _PATIENCE, f"{case.name}: no round was run"
            process.join(wait)
            if not process.is_alive():
                break
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.kills += 1
            self.kinds["while starting" if early else "in its rounds"] += 1
        process = self.start(case, out)
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{case.name}: the run in {out} ended with {process.exitcode}")


def _length(out: Path) -> tuple[int, float]:
    """Of the history, and when it was last written: it is cut at a resumption."""
    try:
        found = (out / "history.jsonl").stat()
    except FileNotFoundError:
        return 0, 0.0
    return found.st_size, found.st_mtime


def examine(case: Case, folder: Path, *, kills: int, seed: int) -> dict[str, Any]:
    """Kill runs of one case until there were enough kills, and compare each with the whole."""
    whole, killer, runs = folder / "whole", Killer(f"{seed} {case.name}"), 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    process = killer.start(case, whole)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{case.name}: the undisturbed run ended with {process.exitcode}")
    summary = json.loads((whole / "summary.json").read_text(encoding="utf-8"))
    differences: list[str] = []
    recovery = 0
    while killer.kills < kills:
        out = folder / f"killed-{runs}"
        left = kills - killer.kills
        killer.disturb(case, out, rounds_seconds=summary["seconds"], kills=left)
        differences += difference(whole, out)
        recovery += json.loads((out / "summary.json").read_text())["last"]["recovery_bytes"]
        runs += 1
    return {
        "rounds": case.rounds,
        "kills": killer.kills,
        "kinds": killer.kinds,
        "runs": runs,
        "differences": differences,
        "recovery_bytes": recovery,
        "seconds": round(time.monotonic() - began, 1),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """What stands between the markers."""
    lines = [
        "| run | engine | rounds | killed (of these while starting) | differences | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        found = results.get(case.name)
        if found is None:
            lines.append(f"| {case.title} | {case.engine} | {case.rounds} | not run | | |")
            continue
        early = found["kinds"]["while starting"]
        told = "; ".join(found["differences"][:2]) or "none"
        lines.append(
            f"| {case.title} | {case.engine} | {found['rounds']} | {found['kills']} ({early}) | "
            f"{told} | {found['seconds']:.0f} |"
        )
    versions = ", ".join(f"{n} {v}" for n, v in packages(["flwr", "torch", "ray"]).items())
    lines += ["", f"Measured on {processor()}; {versions}."]
    return "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Run the cases that the results file lacks, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--results", type=Path, default=Path("runs/soak/kills.json"))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # What ends this program must also end the cluster.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    given.results.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    if given.results.exists():
        results = json.loads(given.results.read_text(encoding="utf-8"))
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-"))
        cluster: RayCluster | None = None
        for case in CASES:
            if case.name in results or (given.only and case.name not in given.only):
                continue
            if case.on_ray and cluster is None:
                cluster = stack.enter_context(RayCluster(Path(tempfile.mkdtemp()), RAY_PORT))
                cluster.start("head", cpus=2)
            folder = Path(scratch) / case.name
            results[case.name] = examine(case, folder, kills=given.kills, seed=given.seed)
            print(case.name, json.dumps(results[case.name]), flush=True)
            given.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
            shutil.rmtree(folder)
    text = table(results)
    if given.output is None:
        print(text)
    else:
        replace_between(given.output, BEGIN, END, text)
    if any(found["differences"] for found in results.values()):
        sys.exit("some runs ended otherwise than the undisturbed ones")


if __name__ == "__main__":
    main()
