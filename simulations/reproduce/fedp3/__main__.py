"""The command: run what has not been run yet, then rewrite the page."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrategies.data import DataError
from fedstrategies.threads import single_threaded
from simulations.reproduce.command import parser_of
from simulations.reproduce.fedp3.criteria_jobs import criterion_jobs
from simulations.reproduce.fedp3.criteria_report import write_criteria
from simulations.reproduce.fedp3.jobs import jobs, tuned, tuning_jobs
from simulations.reproduce.fedp3.part import part_of
from simulations.reproduce.fedp3.private_jobs import (
    best_step,
    digits_jobs,
    private_jobs,
    step_jobs,
)
from simulations.reproduce.fedp3.report import write_report
from simulations.reproduce.fedp3.running import run_jobs

_PROGRAM = "python -m simulations.reproduce.fedp3"
_PARTS = ("table", "privacy", "criteria")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong input."""
    options = _parser().parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    runs: Path = options.runs
    try:
        if options.data is not None:
            source = part_of(options.data / "fashion-mnist", runs / "part" / "fashion-mnist")
            with single_threaded():
                if "table" in options.only:
                    run_jobs(tuning_jobs(), source=source, runs=runs, report=_say)
                    run_jobs(jobs(tuned(runs)), source=source, runs=runs, report=_say)
                if "criteria" in options.only:
                    run_jobs(criterion_jobs(), source=source, runs=runs, report=_say)
                if "privacy" in options.only:
                    run_jobs(digits_jobs(), source=source, runs=runs, report=_say)
                    run_jobs(step_jobs(), source=source, runs=runs, report=_say)
                    rest = private_jobs(best_step(runs))
                    run_jobs(rest, source=source, runs=runs, report=_say)
        if options.report and {"table", "privacy"} & set(options.only):
            write_report(runs, options.page)
            print(f"report: {options.page}")
        if options.report and "criteria" in options.only:
            write_criteria(runs, options.criteria_page)
            print(f"report: {options.criteria_page}")
    except (ValueError, DataError) as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("fedp3", __doc__, parts=_PARTS)
    parser.add_argument(
        "--criteria-page", type=Path, default=Path("docs/results/pruning.md"), help="of criteria"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
