"""The picture: perplexity against sparsity, and every method at 2:4."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from statistics import mean

from fedstrategies.experiment.plots import COLOURS, INK, new_figure, save_figure, style_axes
from simulations.reproduce.pruning.cells import DENSE, METHODS, PATTERNS, Cell, label

__all__ = ["draw"]

_SHOWN = {
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "ria": "RIA",
    "ria:per=row": "RIA, per row",
    "dsnot": "DSnoT",
    "r2-dsnot": "R²-DSnoT",
    "dsnot:cycles=50": "DSnoT, 50 swaps a row",
}
_MARKERS = "osD^vPX"


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Perplexity on held-out stories, mean and range over seeds."""
    figure, (left, right) = new_figure(2)
    dense = next(exp(cell.stories) for cell in cells if cell.method == DENSE)
    sparsities = [pattern for pattern in PATTERNS if ":" not in pattern]
    for number, (method, name) in enumerate(_SHOWN.items()):
        points = [(float(one), found) for one in sparsities if (found := _of(cells, method, one))]
        colour = (*COLOURS, INK)[number]
        x = [sparsity for sparsity, _ in points]
        left.plot(
            x,
            [mean(found) for _, found in points],
            color=colour,
            marker=_MARKERS[number],
            markersize=4,
            label=name,
        )
        low, high = [min(found) for _, found in points], [max(found) for _, found in points]
        left.fill_between(x, low, high, color=colour, alpha=0.15)
    left.axhline(dense, color=INK, linewidth=1, linestyle=(0, (2, 1.2)), label="dense")
    style_axes(left, xlabel="sparsity", ylabel="perplexity on held-out stories")
    left.set_yscale("log")
    left.set_ylim(bottom=dense / 8)
    left.set_xticks([float(one) for one in sparsities])
    left.legend(frameon=False, fontsize=8, loc="lower left", ncols=2)
    names = [method for method in METHODS if _of(cells, method, "2:4")]
    names.sort(key=lambda method: -mean(_of(cells, method, "2:4")))
    for place, method in enumerate(names):
        found = _of(cells, method, "2:4")
        right.plot(found, [place] * len(found), "o", color=COLOURS[0], markersize=4)
    style_axes(right, xlabel="perplexity on held-out stories, 2:4", ylabel="")
    right.set_xscale("log")
    right.set_yticks(range(len(names)), [label(name) for name in names])
    right.tick_params(axis="y", labelsize=7)
    save_figure(figure, path, "stories260K, calibrated on other stories")


def _of(cells: Sequence[Cell], method: str, pattern: str) -> list[float]:
    return [exp(c.stories) for c in cells if (c.method, c.pattern) == (method, pattern)]
