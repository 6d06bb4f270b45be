"""Grids of experiments."""

import csv
import json
from contextlib import contextmanager

import pytest

from fedstrategies.experiment import sweep as sweeps
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import Problem
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.sweep import parse_over, run_sweep, sweep_of
from fedstrategies.experiment.sweep_results import Cell, SweepResults


@contextmanager
def silent(cells):
    yield lambda cell: None


@pytest.fixture
def given(libsvm_file, tmp_path):
    return {
        "dataset": str(libsvm_file),
        "clients": 4,
        "rounds": 30,
        "target-gap": 1e-2,
        "out": str(tmp_path / "out"),
    }


OVER = ["local-steps=1..3", "stepsize=0.5,2"]


def test_values_are_ranges_or_lists():
    grid = parse_over(["local-steps=1..9:4", "stepsize=0.1,theory", "alpha=0.1,0.2;0.3,0.4"])
    assert grid == {
        "local-steps": ("1", "5", "9"),
        "stepsize": ("0.1", "theory"),
        "alpha": ("0.1,0.2", "0.3,0.4"),
    }


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ([], "say what to vary"),
        (["stepsize"], "is not KEY=VALUES"),
        (["stepsize="], "is not KEY=VALUES"),
        (["colour=1,2"], "there is no option 'colour'"),
        (["out=a,b"], "out is the same for all cells"),
        (["backend=flower"], "backend is the same for all cells"),
        (["stepsize=1", "stepsize=2"], "given twice"),
        (["stepsize=1,1"], "repeats a value"),
        (["stepsize=1,,2"], "empty value"),
        (["local-steps=1..x"], "not a range"),
        (["local-steps=3..1"], "has 0 values"),
        (["local-steps=1..9:0"], "not a range"),
    ],
)
def test_wrong_grids_are_refused(over, why):
    with pytest.raises(ConfigError, match=why):
        parse_over(over)


def test_every_cell_is_checked_before_one_runs(given):
    with pytest.raises(ConfigError, match="local-steps: 0 is below 1"):
        sweep_of("localgd", ["local-steps=2,1,0"], given)
    with pytest.raises(ConfigError, match="alpha: localgd has no such option"):
        sweep_of("localgd", ["alpha=0.1,0.2"], given)
    with pytest.raises(ConfigError, match="also given as --local-steps"):
        sweep_of("localgd", OVER, {**given, "local-steps": 3})


def test_the_best_cell_is_the_cheapest_that_reached_the_target(given, tmp_path):
    results = run_sweep(sweep_of("localgd", OVER, given), show=silent)
    out = tmp_path / "out"
    assert [dict(cell.values) for cell in results.cells] == [
        {"local-steps": str(k), "stepsize": s} for k in (1, 2, 3) for s in ("0.5", "2")
    ]
    reached = [cell for cell in results.cells if cell.reached]
    assert len(reached) > 0
    assert results.best is not None
    assert results.best.at["cost"] == min(cell.at["cost"] for cell in reached)
    content = json.loads((out / "sweep.json").read_text())
    assert content["best"] == dict(results.best.values)
    assert SweepResults.read(out / "sweep.json") == results
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert len(rows) == 6
    assert rows[0]["local-steps"] == "1"
    for cell in results.cells:
        folder = (
            out
            / "cells"
            / f"local-steps={cell.values['local-steps']},stepsize={cell.values['stepsize']}"
        )
        assert Summary.read(folder).reached.keys() == ({"target-gap"} if cell.reached else set())
        assert not (folder / "curve.png").exists()
    assert (out / "sweep.png").stat().st_size > 5000


def test_finished_cells_are_not_run_again(given, tmp_path, monkeypatch):
    """A sweep cut off in its third cell goes on with the third."""
    sweep, ran = sweep_of("localgd", OVER, given), []
    really = sweeps.run

    def counting(config, **settings):
        if len(ran) == 2 and not (tmp_path / "resumed").exists():
            raise KeyboardInterrupt
        ran.append(config.out)
        return really(config, **settings)

    monkeypatch.setattr(sweeps, "run", counting)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, show=silent)
    before = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert len(before["cells"]) == 2
    with pytest.raises(ConfigError, match="is not empty"):
        run_sweep(sweep, show=silent)
    (tmp_path / "resumed").touch()
    results = run_sweep(sweep, show=silent, resume=True)
    assert len(ran) == len(set(ran)) == 6
    assert len(results.cells) == 6
    again = run_sweep(sweep, show=silent, resume=True)
    assert len(ran) == 6
    assert again == results


def test_a_cell_that_was_cut_off_is_run_again(given, tmp_path):
    sweep = sweep_of("localgd", ["local-steps=1..2"], given)
    first = run_sweep(sweep, show=silent)
    folder = tmp_path / "out" / "cells" / "local-steps=2"
    (folder / "summary.json").unlink()
    assert run_sweep(sweep, show=silent, resume=True) == first
    assert (folder / "summary.json").exists()


def test_only_the_same_sweep_is_resumed(given, tmp_path):
    sweep = sweep_of("localgd", ["local-steps=1..2"], given)
    with pytest.raises(ConfigError, match="holds no sweep; leave out --resume"):
        run_sweep(sweep, show=silent, resume=True)
    run_sweep(sweep, show=silent)
    for other, why in (
        (sweep_of("localgd", ["local-steps=1..3"], given), "over local-steps=1,2; give the same"),
        (sweep_of("localgd", ["local-steps=1..2"], {**given, "l2": 0.5}), "l2 was 0.1 and is 0.5"),
    ):
        with pytest.raises(ConfigError, match=why):
            run_sweep(other, show=silent, resume=True)
    with pytest.raises(ConfigError, match="not both"):
        run_sweep(sweep, show=silent, resume=True, overwrite=True)


def test_overwrite_begins_anew(given):
    sweep = sweep_of("localgd", ["local-steps=1..2"], given)
    first = run_sweep(sweep, show=silent)
    assert run_sweep(sweep, show=silent, overwrite=True) == first


def test_the_solution_is_found_once_for_all_cells(given, monkeypatch):
    solved = []
    original = Problem.__dict__["solution"].func

    def counting(self):
        solved.append(self)
        return original(self)

    monkeypatch.setattr(Problem.__dict__["solution"], "func", counting)
    run_sweep(sweep_of("localgd", OVER, {**given, "seed": 77}), show=silent)
    assert len(solved) == 1


def test_cells_that_diverge_or_cannot_begin_are_results(given):
    results = run_sweep(sweep_of("localgd", ["stepsize=0.5,1e9"], given), show=silent)
    assert [cell.status for cell in results.cells] == ["done", "diverged"]
    assert results.best is results.cells[0]
    assert results.ok
    refused = run_sweep(
        sweep_of("sppm", ["solver=gd,lbfgs"], {**given, "prox": "l1:0.01", "overwrite": True}),
        show=silent,
        overwrite=True,
    )
    assert [cell.status for cell in refused.cells] == ["done", "refused"]
    assert "use gd, which takes proximal steps" in (refused.cells[1].error or "")


def test_input_that_is_wrong_for_all_cells_is_an_error(given):
    with pytest.raises(Exception, match=r"nowhere\.txt"):
        run_sweep(sweep_of("localgd", OVER, {**given, "dataset": "nowhere.txt"}), show=silent)


def test_without_a_target_the_lowest_loss_is_best(given, tmp_path):
    del given["target-gap"]
    results = run_sweep(sweep_of("localgd", OVER, given), show=silent)
    losses = [cell.last["loss"] for cell in results.cells]
    assert results.best is results.cells[losses.index(min(losses))]
    assert (tmp_path / "out" / "sweep.png").exists()


def test_names_of_folders_are_safe(given):
    sweep = sweep_of("sppm", ["solver=local-gd:steps=2,lbfgs"], given)
    names = [str(config.out).rsplit("/", 1)[1] for _, config in sweep.configs]
    assert names == ["solver=local-gd%3asteps=2", "solver=lbfgs"]


def test_ties_in_cost_go_to_fewer_bytes():
    def cell(name, uplink):
        at = {"cost": 4.0, "uplink_bytes": uplink, "downlink_bytes": 1}
        return Cell(values={"k": name}, status="done", reached=True, at=at)

    results = SweepResults(
        algorithm="a",
        grid={"k": ("1", "2", "3")},
        target="target-gap",
        cells=(cell("1", 30), cell("2", 10), Cell(values={"k": "3"}, status="done")),
    )
    assert [one.values["k"] for one in results.ranked()] == ["2", "1", "3"]
