"""The command: run what has not been run yet, then rewrite the report."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrategies.threads import single_threaded
from simulations.reproduce.command import parser_of
from simulations.reproduce.scafflix import convex, networks
from simulations.reproduce.scafflix.report import write_report

_PROGRAM = "python -m simulations.reproduce.scafflix"
_PARTS = ("convex", *networks.DATASETS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong input."""
    options = _parser().parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        with single_threaded():
            for part in options.only:
                _run(part, options.data, options.runs)
        if options.report:
            write_report(options.runs, options.page)
            print(f"report: {options.page}")
    except ValueError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def _run(part: str, data: Path | None, runs: Path) -> None:
    if data is None:
        raise ValueError("--data DIR is missing: the folder that holds libsvm, fashion-mnist, ...")
    if part == "convex":
        convex.authors(runs)
        convex.run_panels(data=data, runs=runs, report=_say)
        return
    networks.run_jobs(networks.tuning_jobs(part), data=data, runs=runs, report=_say)
    steps = networks.tuned(part, runs)
    networks.run_jobs(networks.jobs(part, steps), data=data, runs=runs, report=_say)


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    return parser_of("scafflix", __doc__, parts=_PARTS)


if __name__ == "__main__":
    sys.exit(main())
