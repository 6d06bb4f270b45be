"""The command: measure what has not been measured yet, then rewrite the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedstrategies.data import DataError
from fedstrategies.threads import single_threaded
from simulations.reproduce.command import parser_of
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
    return parser_of("pruning", __doc__, parts=PATTERNS)


if __name__ == "__main__":
    sys.exit(main())
