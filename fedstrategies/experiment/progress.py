"""What a run shows while it runs: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.sweep_results import Cell

__all__ = ["Observer", "describe_record", "format_bytes", "progress", "sweep_progress"]

Observer = Callable[[HistoryRecord], bool | None]

_REFRESH_SECONDS = 0.1
_PLAIN_LINES = 10
_PLAIN_SECONDS = 30.0


def format_bytes(count: float) -> str:
    """A number of bytes for reading, in powers of 1000.

    >>> format_bytes(1_234_567)
    '1.23 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def describe_record(record: HistoryRecord) -> str:
    """One record on one line.

    >>> describe_record({"round": 3, "loss": 0.5, "uplink_bytes": 1200})
    'loss 0.5  uplink 1.2 kB'
    """
    shown = [
        f"{name} {record[key]:.6g}"
        for key, name in (("loss", "loss"), ("gap", "gap"), ("accuracy", "accuracy"))
        if key in record
    ]
    return "  ".join([*shown, f"uplink {format_bytes(record['uplink_bytes'])}"])


@contextmanager
def progress(name: str, rounds: int, *, quiet: bool = False) -> Iterator[list[Observer]]:
    """Observers that show the run called ``name``; none if ``quiet``.

    Progress goes to standard error, so that standard output holds the result alone.
    """
    console = Console(stderr=True)
    if quiet:
        yield []
    elif not console.is_terminal:
        yield [_plain(name, rounds, console)]
    else:
        with _bar(console) as bar:
            yield [_live(bar, name, rounds)]


@contextmanager
def sweep_progress(
    name: str, cells: int, *, quiet: bool = False
) -> Iterator[Callable[[Cell], None]]:
    """What to call with each finished cell of a sweep to show how far it is."""
    console = Console(stderr=True)
    if quiet:
        yield lambda cell: None
    elif not console.is_terminal:
        done = 0

        def tell(cell: Cell) -> None:
            nonlocal done
            done += 1
            console.print(
                f"{name}  cell {done}/{cells}  {_describe_cell(cell)}",
                highlight=False,
                soft_wrap=True,
            )

        yield tell
    else:
        with _bar(console) as bar:
            task = bar.add_task(name, total=cells, now="")
            yield lambda cell: bar.update(task, advance=1, now=_describe_cell(cell), refresh=True)


def _describe_cell(cell: Cell) -> str:
    cost = f"  cost {cell.at['cost']:g}" if "cost" in cell.at else ""
    why = f" ({cell.error})" if cell.error is not None else ""
    return f"{cell.text}: {cell.ended}{cost}{why}"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
        console=console,
        transient=True,
        auto_refresh=False,
    )


def _live(bar: Progress, name: str, rounds: int) -> Observer:
    task = bar.add_task(name, total=rounds, now="")
    shown = 0.0

    def observe(record: HistoryRecord) -> None:
        nonlocal shown
        now = time.monotonic()
        # Drawing costs a millisecond, as much as a round.
        if now - shown >= _REFRESH_SECONDS or record["round"] == rounds:
            shown = now
            bar.update(task, completed=record["round"], now=describe_record(record), refresh=True)

    return observe


def _plain(name: str, rounds: int, console: Console) -> Observer:
    every = max(1, -(-rounds // _PLAIN_LINES))
    shown = time.monotonic()

    def observe(record: HistoryRecord) -> None:
        nonlocal shown
        number = int(record["round"])
        now = time.monotonic()
        if number % every == 0 or number == rounds or now - shown >= _PLAIN_SECONDS:
            shown = now
            console.print(
                f"{name}  round {number}/{rounds}  {describe_record(record)}",
                highlight=False,
                soft_wrap=True,
            )

    return observe
