"""The picture: perplexity over Wanda's against sparsity, and every method at 2:4."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from statistics import mean

from fedstrategies.experiment.plots import COLOURS, INK, new_figure, save_figure, style_axes
from simulations.reproduce.pruning.cells import METHODS, PATTERNS, Cell, label

__all__ = ["draw"]

_SHOWN = {
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "ria": "RIA",
    "ria:per=row": "RIA, per row",
    "dsnot": "DSnoT",
    "r2-dsnot": "R²-DSnoT",
    "r2-dsnot:same_sign=yes": "R²-DSnoT, same-sign rule",
}
_MARKERS = "osD^vPX"


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Perplexity on held-out stories, mean and range over seeds."""
    figure, (left, right) = new_figure(2)
    sparsities = [pattern for pattern in PATTERNS if ":" not in pattern]
    for number, (method, name) in enumerate(_SHOWN.items()):
        points = [
            (float(one), [value / mean(wanda) for value in found])
            for one in sparsities
            if (found := _of(cells, method, one)) and (wanda := _of(cells, "wanda", one))
        ]
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
        left.fill_between(x, low, high, color=colour, alpha=0.12)
    style_axes(left, xlabel="sparsity", ylabel="perplexity on held-out stories, over Wanda's")
    left.set_xticks([float(one) for one in sparsities])
    left.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    # With n:m neither what is compared nor the rule of signs is a choice.
    chosen = [method for method in METHODS if "per=" not in method and "same_sign" not in method]
    names = [method for method in chosen if _of(cells, method, "2:4")]
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
