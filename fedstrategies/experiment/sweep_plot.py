"""The picture of a sweep: what was compared against one option, a line for the others."""

from __future__ import annotations

from math import floor, isfinite, isnan, log10, nan
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

    The x-axis is the first option whose values are numbers, logarithmic if they span more than two
    powers of ten; if there is none, the first option, by position. Cells that missed the target are
    gaps in their line.
    """
    numeric = [name for name, values in results.grid.items() if _are_numbers(values)]
    key = [*numeric, *results.grid][0]
    others = [other for other in results.grid if other != key]
    best = results.best
    if best is None:
        return
    positions = _positions(results.grid[key])
    lines: dict[str, list[tuple[float, float]]] = {}
    for cell in results.cells:
        name = ", ".join(f"{other} {cell.values[other]}" for other in others)
        lines.setdefault(name, []).append((positions[cell.values[key]], _height(cell, results)))
    figure, (axes,) = new_figure(1)
    for number, (name, points) in enumerate(_best_lines(lines)):
        points.sort(key=lambda point: point[0])
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[(number // len(COLOURS) + number) % len(_MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=name or None,
        )
    at = positions[best.values[key]], _height(best, results)
    axes.plot(*at, marker="o", markersize=12, fillstyle="none", color=INK, linestyle="")
    left = 2 * sum(x < at[0] for x in positions.values()) < len(positions)
    axes.annotate(
        f"best: {best.text}",
        at,
        xytext=(8 if left else -8, 12),
        textcoords="offset points",
        ha="left" if left else "right",
        fontsize=8.5,
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
    depth = {
        name: min(y for _, y in points if not isnan(y))
        for name, points in lines.items()
        if not all(isnan(y) for _, y in points)
    }
    lowest = sorted(depth, key=lambda name: depth[name])[:_MOST_LINES]
    return [(name, points) for name, points in lines.items() if name in lowest]


def _height(cell: Cell, results: SweepResults) -> float:
    """What is compared; nan, a gap in the line, where the cell cannot be."""
    score = cell.score(results.target)
    return nan if score is None else score[0]


def _positions(values: tuple[str, ...]) -> dict[str, float]:
    if _are_numbers(values):
        return {value: float(value) for value in values}
    return {value: float(place) for place, value in enumerate(values)}


def _scale(axes: Axes, results: SweepResults, positions: dict[str, float]) -> None:
    from matplotlib.ticker import FuncFormatter

    numbers = sorted(positions.values())
    if numbers[0] > 0 and numbers[-1] > 100 * numbers[0]:
        axes.set_xscale("log")
    if not _are_numbers(tuple(positions)):
        axes.set_xticks(list(positions.values()), list(positions))
    heights = [y for y in (_height(cell, results) for cell in results.cells) if not isnan(y)]
    if min(heights) > 0 and max(heights) > 10 * min(heights):
        axes.set_yscale("log")
        if results.target is not None:  # costs are numbers of rounds, not powers of ten
            axes.yaxis.set_major_formatter(FuncFormatter(_plainly))
            axes.yaxis.set_minor_formatter(FuncFormatter(_two_and_five))


def _plainly(value: float, position: int | None = None) -> str:
    return f"{value:g}"


def _two_and_five(value: float, position: int | None = None) -> str:
    """Labels for 2 and 5 between the powers of ten; more would overlap."""
    return f"{value:g}" if round(value / 10 ** floor(log10(value)), 6) in (2, 5) else ""


def _are_numbers(values: tuple[str, ...]) -> bool:
    try:
        return all(isfinite(float(value)) for value in values)
    except ValueError:
        return False
