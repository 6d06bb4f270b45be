"""The pictures: cost to the accuracy against K, and accuracy of networks over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedstrategies.experiment.plots import COLOURS, INK, new_figure, save_figure, style_axes
from simulations.reproduce.sppm.costs import PRICES, Row, cells_of, cheapest
from simulations.reproduce.sppm.jobs import GAMMAS

__all__ = ["draw_accuracies", "draw_costs"]

_PANELS = (("stratified", "lbfgs"), ("stratified", "cg"), ("nice", "lbfgs"))
_MARKERS = "osD^vP"


def draw_costs(rows: Sequence[Row], path: Path, *, goal: str, title: str) -> None:
    """Flat cost to a goal against K, a line for each gamma; LocalGD as a level."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = new_figure(len(_PANELS))
    for axes, (sampling, solver) in zip(panels, _PANELS, strict=True):
        for number, gamma in enumerate(GAMMAS):
            cells = cells_of(rows, method="sppm", sampling=sampling, solver=solver, gamma=gamma)
            found = sorted(
                (cell.settings["inner_rounds"], cost)
                for cell in cells
                if (cost := cell.cost(goal, PRICES["flat"])) is not None
            )
            axes.plot(
                [k for k, _ in found],
                [cost for _, cost in found],
                color=COLOURS[number % len(COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
                linewidth=1.5,
                label=f"γ = {gamma}" if found else None,
            )
        levels: dict[str, dict[str, Any]] = {"1/L_max": {"stepsize": "theory"}, "best step": {}}
        for dashes, (name, where) in zip(((0, (6, 2)), (0, (2, 1.2))), levels.items(), strict=True):
            best = cheapest(
                cells_of(rows, method="localgd", sampling=sampling, **where), goal, PRICES["flat"]
            )
            if best is not None:
                label = f"LocalGD, {name}"
                axes.axhline(best.cost, color=INK, linestyle=dashes, linewidth=1, label=label)
        style_axes(axes, xlabel="inner rounds K", ylabel="communication rounds T K")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{sampling} sampling, {solver}", fontsize=10, color=INK, loc="left")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path, title)


def draw_accuracies(
    curves: Mapping[str, tuple[Sequence[int], Sequence[Sequence[float]]]], path: Path, *, title: str
) -> None:
    """Test accuracy over communication rounds: mean and range over seeds of each method."""
    figure, (axes,) = new_figure(1)
    for number, (name, (rounds, runs)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        columns = list(zip(*runs, strict=True))
        axes.fill_between(
            rounds, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15
        )
        means = [sum(c) / len(c) for c in columns]
        # Baselines are dashed: there are more lines than colours, and two of them coincide.
        dashes = "-" if name.startswith("SPPM") else ("--", ":")[name.startswith("FedProx")]
        axes.plot(rounds, means, color=colour, linestyle=dashes, linewidth=1.7, label=name)
    style_axes(axes, xlabel="communication rounds", ylabel="accuracy on the test set")
    axes.legend(frameon=False, fontsize=8.5)
    save_figure(figure, path, title)
