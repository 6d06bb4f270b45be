"""The figures: gap against the bits a client has sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedstrategies.extras import install_hint
from simulations.reproduce.efbv.curve import Curve
from simulations.reproduce.efbv.instance import METHODS

__all__ = ["draw_panels"]

# Okabe and Ito's palette, readable with any colour vision; the dashes serve grey prints.
_LOOKS = {"ef21": ("#D55E00", (0, (6, 2))), "efbv": ("#0072B2", "-")}
_INK, _FAINT = "#222222", "#D8D8D8"
# Below this range of the gap a logarithmic axis would show two flat lines.
_LOG_RANGE = 3.0


def draw_panels(panels: Mapping[str, Sequence[Curve]], path: Path, *, title: str) -> None:
    """One panel for each entry: its caption and the curves in it.

    Raises
    ------
    ValueError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f"figures need matplotlib; {install_hint('plots')}") from None
    figure = Figure(figsize=(5.4 * len(panels) + 0.4, 4.2), dpi=150, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (caption, curves) in zip(row, panels.items(), strict=True):
        for curve in curves:
            _draw_curve(axes, curve)
        _style(axes, curves, caption)
    row[0].set_ylabel("gap  $f(x^t) - f^\\star$", color=_INK)
    figure.suptitle(title, fontsize=11.5, color=_INK, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _draw_curve(axes: Any, curve: Curve) -> None:
    colour, dashes = _LOOKS[curve.header.method]
    axes.plot(
        [point.bits_per_client for point in curve.points],
        [point.gap for point in curve.points],
        color=colour,
        linestyle=dashes,
        linewidth=1.8,
        label=f"{METHODS[curve.header.method]}, ends at {curve.last.gap:.4g}",
    )


def _style(axes: Any, curves: Sequence[Curve], caption: str) -> None:
    from matplotlib.ticker import EngFormatter

    gaps = [point.gap for curve in curves for point in curve.points]
    if min(gaps) > 0 and max(gaps) / min(gaps) > _LOG_RANGE:
        axes.set_yscale("log")
    axes.set_title(caption, fontsize=10, color=_INK, loc="left")
    axes.set_xlim(0, max(curve.last.bits_per_client for curve in curves) or 1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("bits a client has sent (32 a number, as the paper counts)", color=_INK)
    axes.grid(True, which="major", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=_FAINT, labelcolor=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.legend(loc="upper right", frameon=False, labelcolor=_INK, fontsize=9.5)
