"""What ``fedstrategies prune`` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedstrategies.experiment.language_pruning import PruneSummary
from fedstrategies.experiment.progress import format_bytes

__all__ = ["print_pruning", "pruning_progress"]

_TABLE_WIDTH = 120


@contextmanager
def pruning_progress(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Who hears what is being done: a bar on a terminal, a line for each step elsewhere."""
    console = Console(stderr=True)
    if quiet:
        yield lambda what, done, total: None
    elif not console.is_terminal:

        def line(what: str, done: int, total: int) -> None:
            if done == total:
                console.print(f"{what}  {done}/{total}", highlight=False, soft_wrap=True)

        yield line
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=1)
            yield lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            )


def print_pruning(summaries: Sequence[PruneSummary]) -> None:
    """A row for the dense model and one for each method."""
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(
        ("method", "zeros", "perplexity", "seconds", "scoring", "peak memory", "size")
    ):
        table.add_column(name, no_wrap=True, justify="right" if number else "left")
    first = summaries[0]
    dense = _number(first.perplexity_dense)
    table.add_row("dense", "0", dense, "", "", "", format_bytes(first.dense_bytes))
    for summary in summaries:
        peak = summary.peak_device_bytes or summary.peak_memory_bytes
        table.add_row(
            summary.method,
            f"{summary.sparsity:.2%}",
            _number(summary.perplexity),
            f"{summary.seconds:.2f}",
            f"{summary.scoring_seconds:.2f}",
            "-" if peak is None else format_bytes(peak),
            format_bytes(summary.bytes),
        )
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(table)
    note = f"{first.model}, {first.layers} layers, pattern {first.pattern}, {first.tokens} tokens"
    console.print(f"{note}; results in {', '.join(s.out for s in summaries)}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4f}"
