"""The command: run what has not been run yet, then rewrite the report."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrategies.data import DataError
from fedstrategies.threads import single_threaded
from simulations.reproduce.command import parser_of
from simulations.reproduce.sppm.jobs import run_jobs
from simulations.reproduce.sppm.networks import DATASET, run_networks
from simulations.reproduce.sppm.problems import DATASETS, SPLITS
from simulations.reproduce.sppm.report import write_report

_PROGRAM = "python -m simulations.reproduce.sppm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong input."""
    options = _parser().parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        with single_threaded():
            for part in options.only:
                _run(part, options.splits, options.data, options.runs)
        if options.report:
            write_report(options.runs, options.page)
            print(f"report: {options.page}")
    except (ValueError, DataError) as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def _run(part: str, splits: Sequence[str], data: Path | None, runs: Path) -> None:
    if data is None:
        raise ValueError("--data DIR is missing: the folder that holds libsvm and fashion-mnist")
    if part == DATASET:
        run_networks(data=data, runs=runs, report=_say)
        return
    for split in splits:
        run_jobs(part, split, data=data, runs=runs, report=_say)


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("sppm", __doc__, parts=[*DATASETS, DATASET])
    parser.add_argument("--splits", nargs="*", choices=list(SPLITS), default=list(SPLITS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
