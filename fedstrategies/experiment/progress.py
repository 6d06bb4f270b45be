"""What a run shows while it runs: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fedstrategies.experiment.forecast import LONG, Forecast, format_duration
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.sweep_results import Cell

__all__ = ["Observer", "describe_record", "format_bytes", "progress", "sweep_progress"]

Observer = Callable[[HistoryRecord], bool | None]

_REFRESH_SECONDS = 0.1
_PLAIN_LINES = 10
_PLAIN_SECONDS = 30.0
_SHOWN = (
    ("loss", "loss"),
    ("gap", "gap"),
    ("accuracy", "accuracy"),
    ("epsilon_max", "epsilon"),
)
_DISPENSABLE = ("accuracy", "gap", "epsilon_max")
"""Left out, in this order, where a terminal is narrow."""


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


def describe_record(record: HistoryRecord, *, digits: int = 6) -> str:
    """One record on one line, its numbers with so many significant digits.

    >>> describe_record({"round": 3, "loss": 0.5, "uplink_bytes": 1200})
    'loss 0.5  uplink 1.2 kB'
    """
    shown = [f"{name} {record[key]:.{digits}g}" for key, name in _SHOWN if key in record]
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
    name: str, cells: int, *, kept: int = 0, quiet: bool = False
) -> Iterator[Callable[[Cell], None]]:
    """What to call with each finished cell of a sweep to show how far it is.

    The first ``kept`` of them were finished by an earlier process.
    """
    console = Console(stderr=True)
    if quiet:
        yield lambda cell: None
        return
    watch, done = _Watch(name, "cell", Forecast(cells, done=kept), console), 0

    def count() -> int:
        nonlocal done
        done += 1
        if done > kept:
            watch.seen(done)
        return done

    if not console.is_terminal:

        def tell(cell: Cell) -> None:
            _print(console, f"{name}  cell {count()}/{cells}  {_describe_cell(cell)}{watch.left}")

        yield tell
    else:
        with _bar(console) as bar:
            task = bar.add_task(name, total=cells, now="", left="")

            def draw(cell: Cell) -> None:
                now = _describe_cell(cell)
                bar.update(task, completed=count(), now=now, left=watch.left, refresh=True)

            yield draw


def _describe_cell(cell: Cell) -> str:
    cost = f"  cost {cell.at['cost']:g}" if "cost" in cell.at else ""
    why = f" ({cell.error})" if cell.error is not None else ""
    return f"{cell.text}: {cell.ended}{cost}{why}"


class _Watch:
    """Says once that a run is long, as soon as that is known; and how much is left of it."""

    def __init__(self, name: str, step: str, forecast: Forecast, console: Console) -> None:
        self._name, self._step = name, step
        self._forecast, self._console = forecast, console
        self._told = False

    def seen(self, step: int) -> None:
        self._forecast.seen(step)
        left = self._forecast.left
        if left is not None and left >= LONG and not self._told:
            self._told = True
            first, last = self._forecast.first, self._forecast.last
            over = f"{self._step} {last}" if first == last else f"{self._step}s {first} to {last}"
            line = f"about {format_duration(left)} left, measured over {over}"
            _print(self._console, "; ".join([f"{self._name}  {line}", *_memory_now()]))

    @property
    def left(self) -> str:
        """To be put behind a line; empty where it is not known or nothing is left."""
        left = self._forecast.left
        return f"  {format_duration(left)} left" if left else ""


def _memory_now() -> list[str]:
    """What this process has taken at most, and what is free, where the system says it."""
    from fedstrategies.experiment.free_memory import available_memory
    from fedstrategies.experiment.results import peak_memory_bytes

    taken, free = peak_memory_bytes(), available_memory()
    if taken is None or free is None:
        return []
    return [f"this process has taken {format_bytes(taken)}, {format_bytes(free)} are free"]


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _fitted(record: HistoryRecord, room: int) -> str:
    """The record in ``room`` characters, as far as it can be: the loss and the bytes stay."""
    text = describe_record(record, digits=4)
    for key in _DISPENSABLE:
        if len(text) <= room:
            break
        record = {name: value for name, value in record.items() if name != key}
        text = describe_record(record, digits=4)
    return text


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=_bar_width(console)),
        TextColumn("{task.completed:.0f}/{task.total:.0f}{task.fields[left]}"),
        TextColumn("{task.fields[now]}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,
    )


def _bar_width(console: Console) -> int:
    return 40 if console.width >= 120 else 12


def _live(bar: Progress, name: str, rounds: int) -> Observer:
    task = bar.add_task(name, total=rounds, now="", left="")
    watch = _Watch(name, "round", Forecast(rounds), bar.console)
    shown = 0.0

    def observe(record: HistoryRecord) -> None:
        nonlocal shown
        number, now = int(record["round"]), time.monotonic()
        watch.seen(number)
        # Drawing costs a millisecond, as much as a round.
        if now - shown >= _REFRESH_SECONDS or number == rounds:
            shown = now
            before = f"{name} {number}/{rounds}{watch.left}"
            room = bar.console.width - len(before) - _bar_width(bar.console) - 3
            told = _fitted(record, room)
            bar.update(task, completed=number, now=told, left=watch.left, refresh=True)

    return observe


def _plain(name: str, rounds: int, console: Console) -> Observer:
    every = max(1, -(-rounds // _PLAIN_LINES))
    watch = _Watch(name, "round", Forecast(rounds), console)
    shown = time.monotonic()

    def observe(record: HistoryRecord) -> None:
        nonlocal shown
        number, now = int(record["round"]), time.monotonic()
        watch.seen(number)
        if number % every == 0 or number == rounds or now - shown >= _PLAIN_SECONDS:
            shown = now
            line = f"{name}  round {number}/{rounds}  {describe_record(record)}"
            _print(console, line + watch.left)

    return observe
