"""Accuracy against the bytes that travelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment.plots import COLOURS, new_figure, save_figure, style_axes

__all__ = ["Curve", "draw_accuracies", "draw_criteria", "draw_privacy"]

_STYLES = ("-", "-", "-", "-", "--", "--", ":", ":")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A method's accuracy.

    Attributes
    ----------
    label : str
        Its name.
    megabytes : sequence of float
        Up and down, all clients, at each measurement.
    runs : sequence of sequence of float
        Accuracies then, one sequence per seed.
    """

    label: str
    megabytes: Sequence[float]
    runs: Sequence[Sequence[float]]


def draw_accuracies(curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Mean and range over the seeds of each method."""
    figure, (axes,) = new_figure(1)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        columns = list(zip(*curve.runs, strict=True))
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(curve.megabytes, low, high, color=colour, alpha=0.12)
        means = [sum(column) / len(column) for column in columns]
        style = _STYLES[number % len(_STYLES)]
        axes.plot(
            curve.megabytes, means, color=colour, linestyle=style, linewidth=1.7, label=curve.label
        )
    style_axes(axes, xlabel="megabytes up and down", ylabel="accuracy on the clients' test rows")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, title)


def draw_privacy(
    levels: Mapping[str, Mapping[float, Sequence[float]]], path: Path, *, title: str
) -> None:
    """Accuracy over epsilon: mean and range over the seeds for each choice of layers."""
    figure, (axes,) = new_figure(1)
    for number, (layers, found) in enumerate(levels.items()):
        colour, epsilons = COLOURS[number % len(COLOURS)], sorted(found)
        low, high = [min(found[e]) for e in epsilons], [max(found[e]) for e in epsilons]
        axes.fill_between(epsilons, low, high, color=colour, alpha=0.12)
        means = [sum(found[e]) / len(found[e]) for e in epsilons]
        axes.plot(epsilons, means, color=colour, marker="o", markersize=4, label=layers)
    style_axes(axes, xlabel="epsilon at delta 1e-5", ylabel="accuracy on the clients' test rows")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, title)


def draw_criteria(
    levels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], path: Path, *, title: str
) -> None:
    """Accuracy over the share kept: mean and range over the seeds of each criterion, by split."""
    figure, panels = new_figure(len(levels))
    for axes, (split, found) in zip(panels, levels.items(), strict=True):
        for number, (criterion, by_share) in enumerate(found.items()):
            colour, shares = COLOURS[number % len(COLOURS)], sorted(by_share)
            low, high = [min(by_share[p]) for p in shares], [max(by_share[p]) for p in shares]
            axes.fill_between(shares, low, high, color=colour, alpha=0.12)
            means = [sum(by_share[p]) / len(by_share[p]) for p in shares]
            axes.plot(
                shares, means, color=colour, marker="osD^"[number], markersize=4, label=criterion
            )
        style_axes(axes, xlabel=f"share kept of the other layers, {split}", ylabel="accuracy")
        axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, title)
