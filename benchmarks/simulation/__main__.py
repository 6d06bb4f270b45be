"""The command: ``python -m benchmarks.simulation``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.machine import commit, processor
from benchmarks.pages import replace_between
from benchmarks.simulation.catalogue import BASELINE, SYSTEMS
from benchmarks.simulation.harness import Bench
from benchmarks.simulation.records import Head, Record, append, begin, read
from benchmarks.simulation.report import section
from benchmarks.simulation.task import MODELS

BEGIN, END = "<!-- simulation:begin -->", "<!-- simulation:end -->"
ROUNDS = {"linear": 50, "cnn": 10}
QUICK_ROUNDS = {"linear": 10, "cnn": 3}


def main() -> None:
    """Measure, and write the tables."""
    options = _parser().parse_args()
    unknown = set(options.systems) - {system.key for system in SYSTEMS}
    if unknown:
        known = ", ".join(system.key for system in SYSTEMS)
        raise SystemExit(f"no such system: {', '.join(sorted(unknown))}; there are {known}")
    systems = [s for s in SYSTEMS if s.key in {BASELINE, *options.systems}]
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    repeats = options.repeats or (2 if options.quick else 5)
    path: Path = options.results
    head = Head(
        commit=commit(),
        processor=processor(),
        rounds={model: rounds[model] for model in options.models},
    )
    done: list[Record] = []
    if options.resume and path.exists():
        before, done = read(path)
        if before != head:
            raise SystemExit(f"{path} is of {before}, and this is {head}; leave out --resume")
    else:
        begin(path, head)

    def write(record: Record) -> None:
        append(path, record)
        done.append(record)
        print(_progress(record), flush=True)

    bench = Bench(rounds=rounds, peers=options.peers, work=path.with_suffix(""))
    bench.run(options.models, systems, repeats, done=list(done), write=write)
    tables = section(head, done)
    if options.output is None:
        print(tables)
    else:
        replace_between(options.output, BEGIN, END, tables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description="Simulated federated averaging, side by side with other frameworks.",
    )
    keys = [system.key for system in SYSTEMS]
    parser.add_argument("--output", type=Path, help="page to update (default: print the tables)")
    parser.add_argument("--quick", action="store_true", help="2 repeats of fewer rounds")
    parser.add_argument("--repeats", type=int, help="default: 5")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument(
        "--systems", nargs="+", metavar="KEY", default=keys, help=f"among {', '.join(keys)}"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(".venv-peers/bin/python"),
        help="Python that has the other frameworks (make bench-peers)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("runs/bench/simulation.jsonl"),
        help="one line a run, written as they end",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what --results has")
    return parser


def _progress(record: Record) -> str:
    said = f"{1e3 * record.round_seconds:.1f} ms a round" if record.status == "ok" else ""
    told = said or f"{record.status}: {record.reason}"
    return f"{record.model} {record.repeat} {record.system}: {told} (load {record.load:.1f})"


if __name__ == "__main__":
    main()
