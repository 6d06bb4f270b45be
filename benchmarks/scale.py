"""Memory and time of many stateful clients in one process.

    python -m benchmarks.scale --output docs/performance.md

EF21 with top-k 1 % on the in-process grid. What must be there is one vector a client, n d numbers;
the peak says what comes on top: Python, torch, the clients' data, the model, one client's gradient
and the uploads of a round. Each row runs in a process of its own that reports its own peak. The
100,000 registered clients of a stateless method are in `benchmarks.registered_clients`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context
from torch import Tensor, nn

from benchmarks.machine import commit, load, packages, processor, resident_bytes
from benchmarks.pages import replace_between
from fedstrategies import EF21, CohortGrid, LogisticRegression, NiceSampling, TopK, client_app
from fedstrategies.efbv import EFBVClient
from fedstrategies.flower import RoundRecord
from fedstrategies.objectives import Objective, TorchObjective

BEGIN, END = "<!-- scale:begin -->", "<!-- scale:end -->"
PIXELS, HIDDEN, CLASSES, IMAGES = 3072, 520, 10, 10
FEATURES, ROWS = 112, 8
GIGA = 10**9


@dataclass(frozen=True)
class Case:
    """A number of clients, how many take part in a round, and what they train."""

    clients: int
    cohort: int
    model: str
    rounds: int


CASES = {
    "network": Case(clients=1_000, cohort=50, model="network", rounds=6),
    "network, everyone": Case(clients=1_000, cohort=1_000, model="network", rounds=3),
    "logistic": Case(clients=10_000, cohort=100, model="logistic", rounds=100),
    "logistic, everyone": Case(clients=10_000, cohort=10_000, model="logistic", rounds=30),
}


class Clock:
    """Seconds of each round, and the resident size before the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.before = 0
        self._last = 0.0

    def on_start(self, x: Tensor) -> None:
        """Start the clock."""
        self.before = resident_bytes()
        self._last = time.perf_counter()

    def on_round(self, record: RoundRecord) -> None:
        """Read it."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now

    def on_end(self) -> None:
        """Nothing to do."""


def network() -> nn.Module:
    """1,603,170 parameters: 3072 pixels, 520 hidden units, 10 classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )


def objective_of(case: Case, client: int, module: nn.Module) -> Objective:
    """f_i on data of the client's own."""
    draw = torch.Generator().manual_seed(client)
    if case.model == "network":
        images = torch.randn(IMAGES, 3, 32, 32, generator=draw)
        labels = torch.randint(CLASSES, (IMAGES,), generator=draw)
        return TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=(images, labels))
    features = torch.randn(ROWS, FEATURES, generator=draw, dtype=torch.float64)
    labels = torch.randn(ROWS, generator=draw, dtype=torch.float64).sign()
    return LogisticRegression(features=features, labels=labels, l2=0.01)


def measure(case: Case) -> dict[str, float]:
    """One run: bytes at the start and at the peak, and the seconds of a round."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    module = network()

    def client(context: Context) -> EFBVClient:
        partition = int(context.node_config["partition-id"])
        return EFBVClient(context, objective=objective_of(case, partition, module))

    first = objective_of(case, 0, module)
    grid = CohortGrid(client_app(client), num_clients=case.clients, fast="require")
    strategy = EF21(
        compressor=TopK(fraction=0.01),
        stepsize=0.01,
        sampling=NiceSampling(cohort_size=case.cohort),
        num_clients=case.clients,
        memory_budget=2**40,
        fraction_evaluate=0.0,
    )
    start = ArrayRecord({name: Array(v.numpy()) for name, v in first.initial_arrays().items()})
    clock = Clock()
    strategy.start(grid, start, num_rounds=case.rounds, callbacks=[clock])
    return {
        "dimension": first.dimension,
        "itemsize": first.dtype.itemsize,
        "before": clock.before,
        "peak": resident_bytes(),
        "round": statistics.median(clock.seconds[1:]),
        "load": load(),
    }


def report(found: dict[str, dict[str, float]]) -> str:
    """What stands between the page's markers."""
    lines = [
        "| n | cohort | d | n d numbers | before round 1 | peak | ratio | allowed | ms a round |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        case = CASES[name]
        needed = case.clients * result["dimension"] * result["itemsize"]
        lines.append(
            f"| {case.clients:,} | {case.cohort:,} | {result['dimension']:,.0f} "
            f"| {needed / GIGA:.3f} GB | {result['before'] / GIGA:.2f} GB "
            f"| {result['peak'] / GIGA:.2f} GB | {result['peak'] / needed:.2f} "
            f"| {(1.15 * needed + GIGA) / GIGA:.2f} GB | {1e3 * result['round']:,.1f} |"
        )
    loads = [result["load"] for result in found.values()]
    versions = ", ".join(f"{name} {text}" for name, text in packages(["torch", "numpy"]).items())
    table = "\n".join(lines)
    return f"""
EF21, top-k 1 %, in-process grid, fast path, every client with a memory of d numbers. The networks
({PIXELS} pixels, {HIDDEN} hidden units) are float32 and have {IMAGES} images a client, the logistic
regressions float64 and {ROWS} rows a client; full gradients. Before round 1 the memories are there,
all zero. Ratio: the peak against the n d numbers. Allowed are 1.15 times these and 1 GB.

{table}

Measured on {processor()}, load average {min(loads):.1f} to {max(loads):.1f}; {versions}; commit
{commit()}.
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--case", choices=CASES, help="this row alone, printed as JSON")
    parser.add_argument("--clients", type=int, help="with --case: fewer clients, to try it out")
    options = parser.parse_args()
    if options.case:
        case = CASES[options.case]
        clients = options.clients or case.clients
        case = Case(clients, min(case.cohort, clients), case.model, case.rounds)
        print(json.dumps(measure(case)))
        return
    found = {}
    for name in CASES:
        call = [sys.executable, "-m", "benchmarks.scale", "--case", name]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    if options.output is None:
        print(report(found))
    else:
        replace_between(options.output, BEGIN, END, report(found))


if __name__ == "__main__":
    main()
