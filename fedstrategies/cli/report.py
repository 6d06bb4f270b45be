"""``fedstrategies report``: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report_command"]


def report_command(
    outs: Annotated[
        list[Path],
        typer.Argument(metavar="OUT...", help="folders of runs, of comparisons or of sweeps"),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html",
            help="the page; unset: report.html in OUT, or beside the first of several",
        ),
    ] = None,
) -> None:
    """Write one page of HTML on runs: curves, table, constants, options, warnings."""
    from fedstrategies.experiment.report import write_report

    print(write_report(outs, output))
