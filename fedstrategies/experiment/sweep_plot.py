"""The picture of a sweep: what was compared against the first option, a line for the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedstrategies.experiment.plots import COLOURS, INK, new_figure, save_figure, style_axes
from fedstrategies.experiment.sweep_results import Cell, SweepResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_sweep"]

_MARKERS = "osD^vP"
_MOST_LINES = 12


def draw_sweep(results: SweepResults, path: Path, *, title: str = "") -> None:
    """One panel; nothing is drawn if no cell can be compared.

    The x-axis is the first option, logarithmic if it spans more than two powers of ten, by
    position if it is not a number. Cells that missed the target are gaps in their line.
    """
    key, *others = results.grid
    comparable = [cell for cell in results.cells if cell.score(results.target) is not None]
    if not comparable:
        return
    positions = _positions(results.grid[key])
    lines: dict[str, list[tuple[float, float]]] = {}
    for cell in comparable:
        name = ", ".join(f"{other} {cell.values[other]}" for other in others)
        lines.setdefault(name, []).append((positions[cell.values[key]], _height(cell, results)))
    figure, (axes,) = new_figure(1)
    best = results.best
    for number, (name, points) in enumerate(_best_lines(lines)):
        points.sort()
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[(number // len(COLOURS) + number) % len(_MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=name or None,
        )
    if best is not None:
        at = positions[best.values[key]], _height(best, results)
        axes.plot(*at, marker="o", markersize=12, fillstyle="none", color=INK, linestyle="")
        axes.annotate(
            f"best: {best.text}", at, xytext=(8, 12), textcoords="offset points", fontsize=8.5
        )
    style_axes(axes, xlabel=key, ylabel=results.measure)
    _scale(axes, results, positions)
    if any(lines):
        axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path, title)


def _best_lines(
    lines: dict[str, list[tuple[float, float]]],
) -> list[tuple[str, list[tuple[float, float]]]]:
    """All lines in their order, or those that come lowest if they are too many to tell apart."""
    lowest = sorted(lines, key=lambda name: min(y for _, y in lines[name]))[:_MOST_LINES]
    return [(name, points) for name, points in lines.items() if name in lowest]


def _height(cell: Cell, results: SweepResults) -> float:
    score = cell.score(results.target)
    assert score is not None
    return score[0]


def _positions(values: tuple[str, ...]) -> dict[str, float]:
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(place) for place, value in enumerate(values)}


def _scale(axes: Axes, results: SweepResults, positions: dict[str, float]) -> None:
    numbers = sorted(positions.values())
    if numbers[0] > 0 and numbers[-1] > 100 * numbers[0]:
        axes.set_xscale("log")
    named = [value for value in positions if not _is_number(value)]
    if named:
        axes.set_xticks(list(positions.values()), list(positions))
    heights = [_height(c, results) for c in results.cells if c.score(results.target) is not None]
    if min(heights) > 0 and max(heights) > 10 * min(heights):
        axes.set_yscale("log")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
