"""``fedstrategies report``: runs on one page of HTML that needs nothing else.

The page has no scripts and asks for nothing over a network, which its own content policy forbids
besides: what stands in the files of a run is shown as text, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedstrategies.durable import write_durably
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.report.folders import find_runs
from fedstrategies.experiment.report.groups import grouped
from fedstrategies.experiment.report.page import MARK, page_of

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"
"""The file's name where no other is given."""


def write_report(outs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page on the runs in some folders; the same files give the same bytes.

    Parameters
    ----------
    outs : sequence of Path
        Folders of runs, of comparisons or of sweeps. Runs that differ in nothing but their seed
        and the options on output become one curve.
    output : Path, optional
        The file. Default: ``report.html`` in the folder, or beside the first of several.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigError
        If a folder is not there, holds no run or a broken one, or the file cannot be written or
        would replace one that is no such page; nothing was written.
    """
    target = output if output is not None else _default(outs)
    if not target.parent.is_dir():
        raise ConfigError(f"--output: {target.parent} is not a folder; create it first")
    if target.exists() and not _is_report(target):
        raise ConfigError(
            f"--output: {target} is there and no report; move it away, or choose another file"
        )
    text = page_of(grouped(find_runs(outs)), title=", ".join(out.name or str(out) for out in outs))
    try:
        write_durably(target, text.encode())
    except OSError as error:
        raise ConfigError(f"--output: {target} cannot be written ({error.strerror})") from None
    return target


def _default(outs: Sequence[Path]) -> Path:
    first = outs[0]
    return (first if len(outs) == 1 else first.parent) / REPORT


def _is_report(path: Path) -> bool:
    """Whether it is a page that was written here."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(1000)
    except OSError:  # a folder, or not ours to read
        return False
