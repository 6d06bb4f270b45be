"""Tables and picture of the page, from the cells that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp
from pathlib import Path
from statistics import mean

from benchmarks.pages import replace_between
from simulations.reproduce.pruning.cells import (
    DENSE,
    METHODS,
    PATTERNS,
    Cell,
    label,
    read_cells,
)
from simulations.reproduce.pruning.figure import draw

__all__ = ["BEGIN", "END", "write_report"]

BEGIN, END = "<!-- perplexity:begin -->", "<!-- perplexity:end -->"
_TEXTS = {"stories": "held-out stories", "wiki": "WikiText-2"}


def write_report(runs: Path, page: Path) -> None:
    """Rewrite tables and picture of ``page``.

    Raises
    ------
    ValueError
        If the page has lost its markers, or nothing was measured.
    """
    cells = read_cells(runs)
    dense = [cell for cell in cells if cell.method == DENSE]
    if not dense or len(cells) == 1:
        raise ValueError(f"{runs}: nothing was measured; give --data")
    pictures = page.parent / "pruning"
    pictures.mkdir(exist_ok=True)
    draw(cells, pictures / "perplexity.png")
    parts = [
        "![perplexity over Wanda's against sparsity](pruning/perplexity.png)",
        *(_table(cells, text, dense[0]) for text in _TEXTS),
        _orders(cells),
        _seconds(cells),
    ]
    replace_between(page, BEGIN, END, "\n\n" + "\n\n".join(parts) + "\n\n")


def _of(cells: Iterable[Cell], method: str, pattern: str) -> list[Cell]:
    return [cell for cell in cells if (cell.method, cell.pattern) == (method, pattern)]


def _perplexities(cells: Iterable[Cell], text: str) -> list[float]:
    return [exp(getattr(cell, text)) for cell in cells]


def _table(cells: Sequence[Cell], text: str, dense: Cell) -> str:
    level = f"{exp(getattr(dense, text)):.2f}"
    lines = [
        f"Perplexity on {_TEXTS[text]}, dense {level}: mean over the seeds, and their range.",
        "",
        f"| method | {' | '.join(PATTERNS)} |",
        f"|---|{'---|' * len(PATTERNS)}",
    ]
    for method in METHODS:
        entries = [_spread(_perplexities(_of(cells, method, one), text)) for one in PATTERNS]
        lines.append(f"| `{label(method)}` | {' | '.join(entries)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = _short(mean(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _orders(cells: Sequence[Cell]) -> str:
    lines = ["Order by mean perplexity on held-out stories, best first:", ""]
    for pattern in PATTERNS:
        means = {
            label(method): mean(_perplexities(found, "stories"))
            for method in METHODS
            if (found := _of(cells, method, pattern))
        }
        ordered = ", ".join(f"`{name}`" for name in sorted(means, key=lambda name: means[name]))
        lines.append(f"- {pattern}: {ordered}")
    return "\n".join(lines)


def _seconds(cells: Sequence[Cell]) -> str:
    lines = [
        "Seconds, mean over seeds and sparsities.",
        "",
        "| method | scores, masks, swaps | with calibration |",
        "|---|---|---|",
    ]
    for method in METHODS:
        found = [cell for cell in cells if cell.method == method]
        if found:
            alone, whole = (
                mean(getattr(cell, name) for cell in found)
                for name in ("scoring_seconds", "seconds")
            )
            lines.append(f"| `{label(method)}` | {alone:.3f} | {whole:.2f} |")
    return "\n".join(lines)
