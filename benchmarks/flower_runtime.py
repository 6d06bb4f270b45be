"""A round on Flower's own Ray runtime: this suite beside plain Flower.

    python -m benchmarks.flower_runtime --output docs/performance.md

100 virtual clients of 50 random 3 x 32 x 32 images, cohorts of 20, two actors of one core. Plain
Flower's `FedAvg` takes one step on its client's 50 images, and a client of this suite one gradient
over the same 50: equal work but for the update. Each run is a process of its own; the runs of a
repeat follow one another, and a ratio compares runs of one repeat. Rounds are timed inside the
server's loop, from end to end, without the first two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.machine import commit, load, packages, processor
from benchmarks.pages import replace_between

BEGIN, END = "<!-- runtime:begin -->", "<!-- runtime:end -->"
MODELS = {"linear": "Linear model, 30,730 parameters", "cnn": "CNN, 1,626,442 parameters"}
ROUNDS = {"linear": 24, "cnn": 10}
WARM_UP = 2
BASELINE = "fedavg"

Times = Mapping[tuple[str, str], Sequence[float]]
"""Seconds a round by model and system, a figure for each repeat."""


@dataclass(frozen=True)
class System:
    """A row of the table."""

    key: str
    says: str
    target: str = ""
    suite: str = ""
    steps: int = 1
    in_directory: bool = False


SYSTEMS = (
    System(BASELINE, "plain `FedAvg`, one step on 50 images"),
    System("gd", "dense, no client memory (`gd`)", "1.1", suite="gd"),
    System("rand-k", "1 % of the coordinates, no client memory (rand-k)", "0.9", suite="rand-k"),
    System(
        "efbv-directory",
        "EF-BV, top-k 1 %, memory in a directory",
        "1.0",
        suite="efbv",
        in_directory=True,
    ),
    System("efbv-context", "EF-BV, top-k 1 %, memory in `context.state`", suite="efbv"),
    System("fedavg-5", "plain `FedAvg`, five steps on 10 images each", steps=5),
    System("fedavg-0", "plain `FedAvg`, models sent and no step taken", steps=0),
)


def measure(model: str, key: str, rounds: int) -> float:
    """One run in this process: median seconds of a round."""
    # Imported here: of the parent process only the table is wanted.
    from benchmarks.runtime_systems import plain, suite
    from benchmarks.simulation.flower import simulate
    from fedstrategies.threads import single_threaded

    system = next(one for one in SYSTEMS if one.key == key)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "state" if system.in_directory else None
        app, serve = (
            suite(model, system.suite, directory) if system.suite else plain(model, system.steps)
        )
        with single_threaded():
            ends = simulate(lambda grid: serve(grid, WARM_UP + rounds), app)
    seconds = [after - before for before, after in pairwise(ends)]
    return median(seconds[WARM_UP:])


def run_all(models: Sequence[str], repeats: int, rounds: Mapping[str, int]) -> Times:
    """All runs, interleaved, each in a process of its own."""
    found: dict[tuple[str, str], list[float]] = {}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one_thread, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    for model in models:
        for repeat in range(repeats):
            for system in SYSTEMS:
                call = [sys.executable, "-m", "benchmarks.flower_runtime", "--one", model]
                call += [system.key, str(rounds[model])]
                done = subprocess.run(
                    call, capture_output=True, text=True, check=True, env=environment
                )
                seconds = float(json.loads(done.stdout.splitlines()[-1]))
                found.setdefault((model, system.key), []).append(seconds)
                print(f"{model} {repeat} {system.key}: {1e3 * seconds:.0f} ms", file=sys.stderr)
    return found


def report(times: Times, *, footer: str) -> str:
    """A table a model, and what they were measured on."""
    parts = []
    for model, title in MODELS.items():
        if (model, BASELINE) not in times:
            continue
        lines = [
            f"### {title}",
            "",
            "| system | ms a round | against plain `FedAvg`, one step | target |",
            "|---|---|---|---|",
        ]
        for system in SYSTEMS:
            seconds = times[model, system.key]
            ratios = [
                mine / theirs for mine, theirs in zip(seconds, times[model, BASELINE], strict=True)
            ]
            lines.append(
                f"| {system.says} | {_spread([1e3 * s for s in seconds], '.0f')} | "
                f"{'1' if system.key == BASELINE else '**' + _spread(ratios, '.2f', '**')} | "
                f"{'<= ' + system.target if system.target else ''} |"
            )
        parts.append("\n".join(lines))
    return "\n" + "\n\n".join([*parts, footer]) + "\n"


def _spread(values: Sequence[float], form: str, after: str = "") -> str:
    """Median, and the range in brackets."""
    middle = format(median(values), form) + after
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)} to {format(max(values), form)})"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the tables)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="one short repeat")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "SYSTEM", "ROUNDS"), help="one run")
    options = parser.parse_args()
    if options.one:
        model, key, rounds = options.one
        print(json.dumps(measure(model, key, int(rounds))))
        return
    before = load()
    rounds = dict.fromkeys(MODELS, 4) if options.quick else ROUNDS
    repeats = 1 if options.quick else options.repeats
    times = run_all(options.models, repeats, rounds)
    versions = packages(("flwr", "ray", "torch", "numpy"))
    footer = (
        f"Medians over {repeats} interleaved repeats of "
        + " and ".join(f"{rounds[model]} rounds ({model})" for model in options.models)
        + f"; ranges in brackets.\nMeasured on {processor()}; load average {before:.2f} before and "
        f"{load():.2f} after;\n{', '.join(f'{name} {v}' for name, v in versions.items())}; "
        f"commit {commit()}."
    )
    text = report(times, footer=footer)
    if options.output is None:
        print(text)
    else:
        replace_between(options.output, BEGIN, END, text)


if __name__ == "__main__":
    main()
