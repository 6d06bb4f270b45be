"""What is compared in a sweep, and how it is drawn."""

import numpy as np
import pytest

from fedstrategies.experiment import sweep_plot
from fedstrategies.experiment.sweep_results import Cell, SweepResults


@pytest.fixture
def drawn(monkeypatch):
    """The axes of pictures, in place of files."""
    axes = []
    monkeypatch.setattr(
        sweep_plot, "save_figure", lambda figure, path, title: axes.append(figure.axes[0])
    )
    return axes


def test_the_picture_is_over_the_first_option_with_numbers(tmp_path, drawn):
    cells = [
        Cell(values={"solver": "gd", "k": k}, status="done", last={"gap": 0.1}, at={"cost": 1.0})
        for k in ("2", "1")
    ]
    grid = {"solver": ("gd",), "k": ("2", "1")}
    results = SweepResults(algorithm="a", grid=grid, options={}, target=None, cells=tuple(cells))
    sweep_plot.draw_sweep(results, tmp_path / "x.png")
    (axes,) = drawn
    assert axes.get_xlabel() == "k"
    assert axes.get_legend_handles_labels()[1] == ["solver gd"]


def test_cells_that_missed_the_target_are_gaps_in_the_picture(tmp_path, drawn):
    def cell(steps, size, cost):
        at = {"cost": cost, "uplink_bytes": 1, "downlink_bytes": 1}
        values = {"k": steps, "stepsize": size}
        return Cell(values=values, status="done", reached=cost is not None, at=at)

    costs = {"1": (400.0, None, 4.0), "2": (None, None, None)}
    results = SweepResults(
        algorithm="a",
        grid={"k": ("10", "2", "3"), "stepsize": ("1", "2")},
        options={"target-gap": 0.1},
        target="target-gap",
        cells=tuple(
            cell(steps, size, costs[size][number])
            for number, steps in enumerate(("10", "2", "3"))
            for size in ("1", "2")
        ),
    )
    sweep_plot.draw_sweep(results, tmp_path / "x.png")
    (axes,) = drawn
    line, best = axes.get_lines()
    assert list(line.get_xdata()) == [2, 3, 10]
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 4, 400])
    assert best.get_xydata().tolist() == [[3, 4]]
    assert axes.get_ylabel() == "cost to target-gap 0.1"


def test_ties_in_cost_go_to_fewer_bytes():
    def cell(name, uplink):
        at = {"cost": 4.0, "uplink_bytes": uplink, "downlink_bytes": 1}
        return Cell(values={"k": name}, status="done", reached=True, at=at)

    results = SweepResults(
        algorithm="a",
        grid={"k": ("1", "2", "3")},
        options={"target-gap": 0.1},
        target="target-gap",
        cells=(cell("1", 30), cell("2", 10), Cell(values={"k": "3"}, status="done")),
    )
    assert [one.values["k"] for one in results.ranked()] == ["2", "1", "3"]
