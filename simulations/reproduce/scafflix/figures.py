"""The pictures: gaps over rounds, and personal accuracy over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedstrategies.extras import install_hint

__all__ = ["draw_accuracies", "draw_gaps"]

# Okabe and Ito's palette, readable with any colour vision; the dashes serve grey prints.
_LOOKS: Mapping[str, tuple[str, Any, str]] = {
    "scafflix": ("#0072B2", "-", "Scafflix"),
    "scafflix-fixed": ("#009E73", (0, (2, 1.2)), "Scafflix, fixed K"),
    "flix": ("#D55E00", (0, (6, 2)), "FLIX, gradient descent"),
    "fedavg": ("#CC79A7", (0, (7, 2, 1.5, 2)), "FedAvg"),
}
_INK, _FAINT = "#222222", "#D8D8D8"


def draw_gaps(
    panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, title: str
) -> None:
    """One panel for each caption: gap after every round, by method."""
    figure, row = _figure(len(panels))
    for axes, (caption, curves) in zip(row, panels.items(), strict=True):
        for method, gaps in curves.items():
            colour, dashes, label = _LOOKS[method]
            # Rounding leaves gaps of either sign around 1e-16: they say nothing.
            values = [gap if gap > 1e-15 else np.nan for gap in gaps]
            axes.plot(values, color=colour, linestyle=dashes, linewidth=1.8, label=label)
        axes.set_yscale("log")
        _style(axes, caption)
    row[0].set_ylabel("gap of the FLIX objective", color=_INK)
    _finish(figure, row[0], path, title)


def draw_accuracies(
    panels: Mapping[str, Mapping[str, tuple[Sequence[int], np.ndarray]]], path: Path, *, title: str
) -> None:
    """One panel for each caption: by method the rounds (T,) and accuracies (seeds, T)."""
    figure, row = _figure(len(panels), share=True)
    for axes, (caption, curves) in zip(row, panels.items(), strict=True):
        for method, (rounds, accuracies) in curves.items():
            colour, dashes, label = _LOOKS[method]
            label = label.removesuffix(", gradient descent")
            middle = accuracies.mean(axis=0)
            axes.fill_between(
                rounds, accuracies.min(axis=0), accuracies.max(axis=0), color=colour, alpha=0.15
            )
            axes.plot(rounds, middle, color=colour, linestyle=dashes, linewidth=1.8, label=label)
        _style(axes, caption)
    row[0].set_ylabel("personal accuracy, mean over clients", color=_INK)
    _finish(figure, row[0], path, title)


def _figure(panels: int, *, share: bool = False) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f"figures need matplotlib; {install_hint('plots')}") from None
    figure = Figure(figsize=(3.4 * panels + 0.4, 3.8), dpi=130, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False, sharey=share)[0])


def _style(axes: Any, caption: str) -> None:
    axes.set_title(caption, fontsize=10, color=_INK, loc="left")
    axes.set_xlabel("communication rounds", color=_INK)
    axes.grid(True, which="major", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=_FAINT, labelcolor=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _finish(figure: Any, first: Any, path: Path, title: str) -> None:
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, fontsize=11.5, color=_INK, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
