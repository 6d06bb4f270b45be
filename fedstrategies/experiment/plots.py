"""Pictures of runs: convergence against rounds, bytes, cost or time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedstrategies.experiment.history import HistoryRecord, read_history, total_bytes
from fedstrategies.experiment.results import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "INK",
    "NAMES",
    "X_AXES",
    "Y_AXES",
    "Curve",
    "abscissa",
    "draw_comparison",
    "draw_curves",
    "draw_run",
    "new_figure",
    "read_curve",
    "save_figure",
    "style_axes",
]

X_AXES = {
    "rounds": "communication rounds",
    "uplink_bytes": "uplink bytes, all clients",
    "total_bytes": "bytes up and down, all clients",
    "cost": "communication cost",
    "seconds": "time",
}
"""What ``--x`` accepts, and how the axis is labelled."""

Y_AXES = {
    "loss": "loss  $f(x^t) + R(x^t)$",
    "gap": "gap  $f(x^t) - f^\\star$",
    "grad_norm_sq": "squared gradient norm  $\\|\\nabla f(x^t)\\|^2$",
    "accuracy": "accuracy of the server's model",
    "accuracy_personal": "accuracy of the clients' own models, mean",
    "accuracy_personal_worst_decile": "accuracy of the clients' own models, worst tenth",
}
"""What ``--y`` accepts, and how the axis is labelled."""

_LOG_Y = ("gap", "grad_norm_sq")
# Okabe and Ito's palette (black and yellow left out), readable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_STYLES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.2)), (0, (7, 2, 1.5, 2)))
INK = "#222222"
_FAINT = "#D8D8D8"
_MOST_POINTS = 2000
_LABEL_SPACING = 0.055


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's history and the name it is drawn under."""

    label: str
    records: Sequence[HistoryRecord]

    def points(self, x: str, y: str, *, until: float | None = None) -> tuple[list[float], ...]:
        """Coordinates of the records in which both are measured; ``x`` at most ``until``."""
        pairs = [
            (at, float(record[y]))
            for record in self.records
            if y in record
            and (at := abscissa(record, x)) is not None
            and (until is None or at <= until)
            and (y not in _LOG_Y or record[y] > 0)
        ]
        step = max(1, len(pairs) // _MOST_POINTS)
        kept = pairs[::step] + ([pairs[-1]] if pairs and (len(pairs) - 1) % step else [])
        return [pair[0] for pair in kept], [pair[1] for pair in kept]


def abscissa(record: HistoryRecord, x: str) -> float | None:
    """Where a record lies on the axis called ``x``; None if that was not counted."""
    if x == "total_bytes":
        return total_bytes(record)
    return record.get("round" if x == "rounds" else x)


def read_curve(directory: Path, *, label: str | None = None) -> Curve:
    """The curve of a run's folder, labelled with its algorithm.

    Raises
    ------
    ValueError
        If the folder holds no history, or a broken one.
    """
    records = read_history(directory / "history.jsonl")
    return Curve(label=directory.name if label is None else label, records=records)


def draw_curves(
    curves: Sequence[Curve], path: Path, *, x: str = "rounds", y: str = "loss", title: str = ""
) -> None:
    """One panel, one line per run.

    Raises
    ------
    ValueError
        If no run has measured ``y``.
    """
    figure, (axes,) = new_figure(1)
    _draw_panel(axes, curves, x, y)
    save_figure(figure, path, title)


def draw_run(directory: Path, path: Path) -> None:
    """A run's own picture: loss against rounds, and optimality against uplink bytes."""
    summary = Summary.read(directory)
    curve = read_curve(directory, label=NAMES.get(summary.algorithm, summary.algorithm))
    figure, (left, right) = new_figure(2)
    _draw_panel(left, [curve], "rounds", "loss", labels=False)
    _draw_panel(right, [curve], "uplink_bytes", _optimality([curve]), labels=False)
    clients = f"{summary.clients} client" + ("s" if summary.clients != 1 else "")
    save_figure(figure, path, f"{curve.label} on {summary.dataset}, {clients}")


def draw_comparison(curves: Sequence[Curve], path: Path, *, title: str = "") -> None:
    """Optimality of several runs at equal uplink bytes, and beside it at equal rounds.

    The left panel ends where the run that sent least ends: beyond it there is nothing to
    compare.
    """
    y = _optimality(curves)
    budget = min(float(curve.records[-1]["uplink_bytes"]) for curve in curves)
    figure, (left, right) = new_figure(2)
    _draw_panel(left, curves, "uplink_bytes", y, until=budget or None)
    _draw_panel(right, curves, "rounds", y)
    left.set_title("at equal uplink bytes", fontsize=10, color=INK, loc="left")
    right.set_title("at equal rounds", fontsize=10, color=INK, loc="left")
    save_figure(figure, path, title)


NAMES = {
    "efbv": "EF-BV",
    "ef21": "EF21",
    "diana": "DIANA",
    "gd": "gradient descent",
    "scafflix": "Scafflix",
    "scaffnew": "Scaffnew",
    "i-scaffnew": "i-Scaffnew",
    "flix": "FLIX",
    "fedavg": "FedAvg",
    "sppm": "SPPM-AS",
    "localgd": "LocalGD",
    "fedprox": "FedProx",
    "fedp3": "FedP3",
    "ldp-fedp3": "LDP-FedP3",
}
"""Algorithms as they are written."""


def _optimality(curves: Sequence[Curve]) -> str:
    measured = all(any("gap" in record for record in curve.records) for curve in curves)
    return "gap" if measured else "grad_norm_sq"


def new_figure(panels: int) -> tuple[Any, list[Axes]]:
    """A figure with panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * panels + 0.4, 4.4), dpi=150, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _draw_panel(
    axes: Axes,
    curves: Sequence[Curve],
    x: str,
    y: str,
    *,
    until: float | None = None,
    labels: bool = True,
) -> None:
    ends: list[tuple[str, str, float, float]] = []
    for number, curve in enumerate(curves):
        abscissae, ordinates = curve.points(x, y, until=until)
        if not abscissae:
            continue
        colour = COLOURS[number % len(COLOURS)]
        style = _STYLES[number % len(_STYLES)] if len(curves) > 1 else "-"
        axes.plot(abscissae, ordinates, color=colour, linestyle=style, linewidth=1.8)
        ends.append((curve.label, colour, abscissae[-1], ordinates[-1]))
    if not ends:
        raise ValueError(f"no run has measured {y}")
    _style(axes, x, y)
    axes.set_xlim(0, max(end[2] for end in ends) or 1)
    if labels:
        _label_ends(axes, ends)


def _style(axes: Axes, x: str, y: str) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    if y in _LOG_Y:
        axes.set_yscale("log")
    elif y.startswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if x.endswith("bytes"):
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    elif x == "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    style_axes(axes, xlabel=X_AXES[x], ylabel=Y_AXES[y])


def style_axes(axes: Axes, *, xlabel: str, ylabel: str) -> None:
    """Labels, a faint grid and no frame: how all pictures here look."""
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.grid(True, which="major", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=_FAINT, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Name each line at its right end, pushed apart where ends are close."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for _, _, x, y in ends]
    order = sorted(range(len(ends)), key=heights.__getitem__)
    lowest = -1.0
    for index in order:
        lowest = max(heights[index], lowest + _LABEL_SPACING)
        label, colour, _, _ = ends[index]
        axes.annotate(
            label,
            xy=(1.0, lowest),
            xytext=(6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def save_figure(figure: Any, path: Path, title: str) -> None:
    """Write the figure, without the date or anything else that differs from run to run."""
    if title:
        figure.suptitle(title, fontsize=11.5, color=INK, x=0.01, ha="left")
    figure.savefig(path, metadata={"Software": None})
