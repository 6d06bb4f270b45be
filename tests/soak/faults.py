"""Every algorithm of the suite through 10,000 rounds of mixed faults.

    python -m tests.soak.faults --results faults.json --output docs/reliability.md

Further settings of the algorithms take 1,000 rounds. Each case runs in a process of its own, two
side by side. After every attempt at a round the invariants are measured; then the faults stop and
the algorithm must come where it comes without them. What is done is in the results file and is not
done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, packages, processor
from benchmarks.pages import replace_between

BEGIN, END = "<!-- begin faults -->", "<!-- end faults -->"
ROUNDS, FURTHER_ROUNDS = 10_000, 1_000
RATE, KILLS, SIDE_BY_SIDE = 0.015, 0.004, 2

Result = dict[str, Any]


def one(name: str, rounds: int, seed: int) -> Result:
    """One algorithm, in this process; ``failed`` says what broke, if anything did."""
    import torch

    from tests.soak.faults_cases import CASES
    from tests.soak.faults_run import schedule, survive

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    began, told = time.perf_counter(), [0]

    def tell(round: int) -> None:
        if round >= told[0] + 1000:
            told[0] = round
            print(f"{name}: round {round}, {time.perf_counter() - began:.0f} s", file=sys.stderr)

    case = CASES[name]()
    faults = schedule(case, rate=RATE, kills=KILLS)
    asked = {"asked": rounds, "seed": seed}
    try:
        found = survive(case, rounds=rounds, faults=faults, seed=seed, tell=tell)
    except Exception as error:  # whatever it is, it is the result
        seconds = time.perf_counter() - began
        return {**asked, "failed": f"{type(error).__name__}: {error}", "seconds": seconds}
    return {**asked, "commit": commit(), **asdict(found)}


def survived(result: Result) -> bool:
    """Whether nothing broke, and it came where it must."""
    return "failed" not in result and result["distance"] <= result["limit"]


def run_all(rounds: Mapping[str, int], seed: int, results: Path) -> dict[str, Result]:
    """All that are not in the results file yet, each in its process, and the file as they end."""
    found: dict[str, Result] = {}
    if results.exists():
        found = json.loads(results.read_text(encoding="utf-8"))
    done = {n for n, r in found.items() if (r["asked"], r["seed"]) == (rounds.get(n), seed)}
    waiting = [name for name in rounds if name not in done]
    running: dict[str, subprocess.Popen[str]] = {}
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            name = waiting.pop(0)
            call = [sys.executable, "-W", "ignore", "-m", "tests.soak.faults", "--one", name]
            call += ["--rounds", str(rounds[name]), "--seed", str(seed)]
            running[name] = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
        time.sleep(0.2)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            process = running.pop(name)
            output = process.stdout.read() if process.stdout is not None else ""
            if process.returncode:
                found[name] = {
                    "asked": rounds[name],
                    "seed": seed,
                    "failed": f"the process ended with {process.returncode}",
                    "seconds": 0.0,
                }
            else:
                found[name] = json.loads(output.splitlines()[-1])
            _write(results, found)
            print(line_of(name, found[name]), flush=True)
    return {name: found[name] for name in rounds}


def _write(path: Path, found: Mapping[str, Result]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def line_of(name: str, result: Result) -> str:
    """A row of the table."""
    if "failed" in result:
        told = result["failed"].replace("|", "/").splitlines()[-1][:160]
        return f"| `{name}` | {result['asked']:,} | | | | **broken**: {told} | | |"
    faults: dict[str, int] = result["faults"]
    worst = ", ".join(f"{what}: {value:.1e}" for what, value in result["violations"].items())
    reached = f"{result['distance']:.1e}" + ("" if survived(result) else " **missed**")
    return (
        f"| `{name}` | {result['rounds']:,} | {result['attempts']:,} | {sum(faults.values()):,} | "
        f"{sum(value > 0 for value in faults.values())} | {worst} | {reached} | "
        f"{result['limit']:g} | {result['seconds']:.0f} |"
    )


def report(found: Mapping[str, Result]) -> str:
    """The tables between the markers."""
    lines = [
        "| algorithm | rounds | attempts | faults | kinds | violation | afterwards | limit | s |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line_of(name, result) for name, result in found.items()),
        "",
        "| fault | survived |",
        "|---|---|",
    ]
    kinds: dict[str, int] = {}
    for result in found.values():
        for kind, count in result.get("faults", {}).items():
            kinds[kind] = kinds.get(kind, 0) + count
    lines += [f"| {kind.replace('_', ' ')} | {count:,} |" for kind, count in kinds.items()]
    versions = ", ".join(
        f"{name} {number}" for name, number in packages(["flwr", "torch", "numpy"]).items()
    )
    commits = ", ".join(sorted({result.get("commit", commit()) for result in found.values()}))
    lines += ["", f"Measured on {processor()}; {versions};", f"at {commits}."]
    return "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the tables)")
    parser.add_argument("--results", type=Path, default=Path("faults.json"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--further-rounds", type=int, default=FURTHER_ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these algorithms alone")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.rounds, options.seed)))
        return
    from tests.soak.faults_cases import ALGORITHMS, CASES

    rounds = dict.fromkeys(ALGORITHMS, options.rounds)
    rounds |= {name: options.further_rounds for name in CASES if name not in rounds}
    if options.only:
        rounds = {name: rounds[name] for name in options.only}
    found = run_all(rounds, options.seed, options.results)
    if options.output is None:
        print(report(found))
    else:
        replace_between(options.output, BEGIN, END, report(found))
    broken = [name for name, result in found.items() if not survived(result)]
    if broken:
        sys.exit(f"not survived: {', '.join(broken)}")


if __name__ == "__main__":
    main()
