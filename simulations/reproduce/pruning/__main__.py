"""The command: measure what has not been measured yet, then rewrite the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrategies.data import DataError
from fedstrategies.threads import single_threaded
from simulations.reproduce.pruning.cells import PATTERNS, measure

_PROGRAM = "python -m simulations.reproduce.pruning"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong input."""
    options = _parser().parse_args(arguments)
    try:
        if options.only:
            if options.data is None:
                raise ValueError("--data DIR is missing: the folder that holds tinylm and lm")
            with single_threaded():
                measure(options.data, options.runs, patterns=options.only, report=_say)
        if options.report:
            from simulations.reproduce.pruning.report import write_report

            write_report(options.runs, options.page)
            print(f"report: {options.page}")
    except (ValueError, DataError) as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the model and texts")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=PATTERNS,
        default=list(PATTERNS),
        help="sparsities to measure; none: the report alone. Two may run side by side",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce-pruning"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/pruning.md"))
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help="leave the page as it is"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
