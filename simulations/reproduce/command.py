"""The options that the commands of this folder share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["parser_of"]


def parser_of(
    method: str, description: str | None, *, parts: Sequence[str]
) -> argparse.ArgumentParser:
    """A parser with ``--data``, ``--only``, ``--runs``, ``--page`` and ``--no-report``.

    Parameters
    ----------
    method : str
        Name of its folder here, of its page in docs/results and of its runs.
    description : str or None
        Of the command.
    parts : sequence of str
        What ``--only`` chooses from; all by default.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m simulations.reproduce.{method}", description=description
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(parts),
        default=list(parts),
        help="parts to run; none: the report alone. Two may run side by side",
    )
    parser.add_argument("--runs", type=Path, default=Path(f"runs/reproduce-{method}"))
    parser.add_argument("--page", type=Path, default=Path(f"docs/results/{method}.md"))
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help="leave the page as it is"
    )
    return parser
