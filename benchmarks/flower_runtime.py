"""Our methods beside plain Flower `FedAvg`, both on Flower's simulation runtime with Ray.

    python -m benchmarks.flower_runtime --output docs/performance.md

Every run is a process of its own with two actors; systems are interleaved, the first rounds are
dropped, and each ratio is taken within one repeat. The methods of this suite compute one gradient
over a client's images, and so does the FedAvg they are compared with, in one step.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeAlias

from benchmarks.machine import commit, load, packages, processor
from benchmarks.pages import replace_between
from benchmarks.runtime_systems import (
    CLIENTS,
    COHORT,
    MODELS,
    SYSTEMS,
    last_rounds,
    plain,
    suite,
)

BEGIN, END = "<!-- runtime:begin -->", "<!-- runtime:end -->"
WARM_UP, BASE = 2, "fedavg-1"
NAMES = {
    "fedavg-1": "Flower's `FedAvg`, one step",
    "fedavg-5": "Flower's `FedAvg`, five steps",
    "gd": "`gd`: dense, no client memory",
    "rand-k": "rand-k, 1 %, no client memory",
    "efbv-dir": "EF-BV, top-k 1 %, memory in a directory",
    "efbv-context": "EF-BV, top-k 1 %, memory in `context.state`",
}
TARGETS = {"gd": "<= 1.1", "rand-k": "<= 0.9", "efbv-dir": "<= 1.0", "efbv-context": "reported"}

Found: TypeAlias = dict[tuple[str, str], list[float]]
"""Median seconds a round, one a repeat, by model and system."""


def measure(model: str, system: str, rounds: int) -> list[float]:
    """Seconds of each timed round of one system."""
    from fedstrategies.experiment.flower_backend import run_in_simulation
    from fedstrategies.threads import single_threaded

    logging.getLogger("flwr").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory, single_threaded():
        if system.startswith("fedavg"):
            app, serve = plain(model, int(system.removeprefix("fedavg-")))
        else:
            app, serve = suite(model, system, directory)
        ends = run_in_simulation(
            lambda grid: serve(grid, rounds + WARM_UP),
            app,
            clients=CLIENTS,
            cpus_per_client=1.0,
            gpus_per_client=0.0,
        )
    return last_rounds(ends, WARM_UP)


def in_a_process(model: str, system: str, rounds: int) -> float:
    """The median round of one system in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.flower_runtime", "--one", model, system]
    done = subprocess.run(
        [*call, "--rounds", str(rounds)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{model}, {system}: {done.stderr.strip().splitlines()[-1:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def report(found: Found, loads: list[float]) -> str:
    """The table between the markers."""
    lines = [
        "",
        f"Seconds a round with cohorts of {COHORT} of {CLIENTS} clients, two actors; medians over",
        f"{len(loads)} interleaved repeats, and the range of the ratios, each within one repeat.",
        "",
        "| model | system | s a round | against `FedAvg`, one step | target |",
        "|---|---|---|---|---|",
    ]
    for (model, system), seconds in found.items():
        ratios = [ours / base for ours, base in zip(seconds, found[model, BASE], strict=True)]
        lines.append(
            f"| {model} | {NAMES[system]} | {statistics.median(seconds):.3f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{TARGETS.get(system, '')} |"
        )
    known = packages(["flwr", "ray", "torch", "numpy"])
    versions = ", ".join(f"{name} {number}" for name, number in known.items())
    lines += [
        "",
        f"Load average before the repeats {', '.join(f'{one:.1f}' for one in loads)};",
        f"{processor()};",
        f"{versions}; commit {commit()}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SYSTEM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.rounds)))
        return
    found: Found = {(model, system): [] for model in options.models for system in SYSTEMS}
    loads = []
    for _ in range(options.repeats):
        loads.append(load())
        for model, system in found:
            found[model, system].append(in_a_process(model, system, options.rounds))
    text = report(found, loads)
    if options.output is None:
        print(text)
    else:
        replace_between(options.output, BEGIN, END, text)


if __name__ == "__main__":
    main()
