"""A round of SPPM-AS costs its cohort, not the number of registered clients.

    python -m benchmarks.registered_clients --output docs/performance.md

n clients with two rows of mushrooms each, cohorts of 10, K = 5 inner rounds by L-BFGS, on the
in-process grid: one message per client, and the fast path. Each n runs in a process of its own, so
that memory is that of one run.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from flwr.app import ArrayRecord, Context
from torch import Tensor

from benchmarks.machine import commit, load, packages, processor, resident_bytes
from benchmarks.pages import replace_between
from fedstrategies import CohortGrid, LogisticRegression, NiceSampling, client_app
from fedstrategies.data import binary_labels, load_dataset
from fedstrategies.flower import RoundRecord
from fedstrategies.sppm import SPPM, SPPMClient

REGISTERED = (1_000, 10_000, 100_000)
COHORT, INNER, ROWS, WARM_UP = 10, 5, 2, 20
BEGIN, END = "<!-- registered:begin -->", "<!-- registered:end -->"


class Clock:
    """Seconds of each round, and the resident size after the first few and at the end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.sizes: list[int] = []
        self._last = 0.0

    def on_start(self, x: Tensor) -> None:
        """Start the clock."""
        self._last = time.perf_counter()

    def on_round(self, record: RoundRecord) -> None:
        """Stop it; the first rounds fill caches and are left out."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        if len(self.seconds) == WARM_UP:
            self.sizes.append(resident_bytes())
        self._last = time.perf_counter()

    def on_end(self) -> None:
        """Look at the memory once more."""
        self.sizes.append(resident_bytes())


def measure(clients: int, path: Literal["message", "fast"], rounds: int) -> dict[str, float]:
    """One run: set-up, median round, and growth of memory over the rounds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    data = load_dataset("mushrooms")
    features, labels = data.features.double(), binary_labels(data.labels)

    def client(context: Context) -> SPPMClient:
        first = int(context.node_config["partition-id"]) * ROWS
        rows = torch.arange(first, first + ROWS) % len(features)
        objective = LogisticRegression(features=features[rows], labels=labels[rows], l2=0.1)
        return SPPMClient(context, objective=objective)

    began = time.perf_counter()
    fast: Literal["never", "require"] = "require" if path == "fast" else "never"
    grid = CohortGrid(client_app(client), num_clients=clients, fast=fast)
    strategy = SPPM(
        sampling=NiceSampling(cohort_size=COHORT),
        inner_rounds=INNER,
        num_clients=clients,
        fraction_evaluate=0.0,
    )
    clock = Clock()
    start = ArrayRecord({"weight": torch.zeros(features.shape[1], dtype=torch.float64)})
    strategy.start(grid, start, num_rounds=rounds, callbacks=[clock])
    whole = time.perf_counter() - began
    return {
        "setup": whole - sum(clock.seconds),
        "round": statistics.median(clock.seconds[WARM_UP:]),
        "growth": clock.sizes[1] - clock.sizes[0],
        "peak": clock.sizes[1],
    }


def report(found: list[tuple[int, str, dict[str, float]]]) -> str:
    """The table between the markers."""
    base = {path: result["round"] for clients, path, result in found if clients == REGISTERED[0]}
    lines = [
        "| clients | path | ms a round | against 1,000 | memory growth | set-up | resident |",
        "|---|---|---|---|---|---|---|",
    ]
    for clients, path, result in found:
        lines.append(
            f"| {clients:,} | {path} | {1e3 * result['round']:.2f} | "
            f"{result['round'] / base[path]:.2f} | {result['growth'] / 2**20:.1f} MiB | "
            f"{result['setup']:.1f} s | {result['peak'] / 2**20:,.0f} MiB |"
        )
    versions = ", ".join(
        f"{name} {number}" for name, number in packages(["flwr", "torch", "numpy"]).items()
    )
    lines += [
        "",
        f"Measured on {processor()}; load average {load():.1f} at the end; {versions};",
        f"commit {commit()}.",
    ]
    return "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--rounds", type=int, default=220)
    parser.add_argument("--one", nargs=2, metavar=("N", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1], options.rounds)))
        return
    found = []
    for path in ("message", "fast"):
        for clients in REGISTERED:
            call = [sys.executable, "-m", "benchmarks.registered_clients", "--one", str(clients)]
            call += [path, "--rounds", str(options.rounds)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            found.append((clients, path, json.loads(done.stdout.splitlines()[-1])))
    if options.output is None:
        print(report(found))
    else:
        replace_between(options.output, BEGIN, END, report(found))


if __name__ == "__main__":
    main()
