"""Grids of experiments."""

import csv
import json
from contextlib import contextmanager

import pytest

from fedstrategies.experiment import sweep as sweeps
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import Problem
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.sweep import run_sweep
from fedstrategies.experiment.sweep_grid import sweep_of
from fedstrategies.experiment.sweep_results import SweepResults


@contextmanager
def silent(cells, kept):
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
    torn = '{"status": "do'
    for left in (None, torn):
        (folder / "summary.json").unlink()
        if left is not None:
            (folder / "summary.json").write_text(left)
        assert run_sweep(sweep, show=silent, resume=True) == first
        assert Summary.read(folder).status == "done"


def interrupt_at(monkeypatch, number):
    """Ctrl-C in the ``number``-th cell that is run from here on."""
    really, ran = sweeps.run, []

    def interrupted(config, **settings):
        if len(ran) == number:
            raise KeyboardInterrupt
        ran.append(config.out)
        return really(config, **settings)

    monkeypatch.setattr(sweeps, "run", interrupted)


def test_a_sweep_cut_off_in_its_first_cell_goes_on(given, monkeypatch):
    sweep = sweep_of("localgd", ["local-steps=1..2"], given)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(sweep, show=silent)
    with pytest.raises(ConfigError, match="it holds a sweep; go on with --resume"):
        run_sweep(sweep, show=silent)
    assert len(run_sweep(sweep, show=silent, resume=True).cells) == 2


def test_an_interrupted_resumption_loses_no_cell(given, tmp_path, monkeypatch):
    sweep = sweep_of("localgd", ["local-steps=1..4"], given)
    run_sweep(sweep, show=silent)
    (tmp_path / "out" / "cells" / "local-steps=2" / "summary.json").unlink()
    interrupt_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, show=silent, resume=True)
    left = SweepResults.read(tmp_path / "out" / "sweep.json").cells
    assert [cell.values["local-steps"] for cell in left] == ["1", "3", "4"]


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
    swapped = sweep_of("localgd", ["local-steps=1..2"], given)
    (swapped.out / "sweep.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"sweep\.json: not the results of a sweep"):
        run_sweep(swapped, show=silent, resume=True)
    with pytest.raises(ConfigError, match="not both"):
        run_sweep(sweep, show=silent, resume=True, overwrite=True)


def test_overwrite_begins_anew(given):
    sweep = sweep_of("localgd", ["local-steps=1..2"], given)
    first = run_sweep(sweep, show=silent)
    assert run_sweep(sweep, show=silent, overwrite=True) == first


def test_cells_from_before_an_overwrite_are_not_finished(given, tmp_path, monkeypatch):
    sweep = sweep_of("localgd", ["local-steps=1..3"], given)
    run_sweep(sweep, show=silent)
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, show=silent, overwrite=True)
    assert len(list((tmp_path / "out" / "cells").glob("*/summary.json"))) == 1


@pytest.mark.parametrize(("over", "problems"), [(OVER, 1), (["stepsize=0.5,1", "seed=70..75"], 6)])
def test_the_solution_is_found_once_for_each_problem(given, monkeypatch, over, problems):
    """Also where there are more problems than are kept at a time."""
    solved = []
    original = Problem.__dict__["solution"].func

    def counting(self):
        solved.append(self)
        return original(self)

    monkeypatch.setattr(Problem.__dict__["solution"], "func", counting)
    sweep = sweep_of("localgd", over, {**given, "l2": 0.123})
    results = run_sweep(sweep, show=silent)
    assert len(solved) == problems
    assert [cell.values for cell in results.cells] == [values for values, _ in sweep.configs]


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


@pytest.mark.parametrize("order", ["2;top-k:k=50", "50;top-k:k=2"])
def test_the_first_cell_may_be_the_one_that_cannot_begin(given, order):
    over = [f"compressor=top-k:k={order}"]
    results = run_sweep(sweep_of("ef21", over, given), show=silent)
    assert {cell.values["compressor"]: cell.status for cell in results.cells} == {
        "top-k:k=2": "done",
        "top-k:k=50": "refused",
    }


def test_a_sweep_without_a_cell_that_can_begin_writes_nothing(given, tmp_path):
    with pytest.raises(ConfigError, match="k = 50 exceeds"):
        run_sweep(sweep_of("ef21", ["compressor=top-k:k=50;top-k:k=60"], given), show=silent)
    assert not (tmp_path / "out").exists()


def test_input_that_is_wrong_for_all_cells_is_an_error(given):
    with pytest.raises(Exception, match=r"nowhere\.txt"):
        run_sweep(sweep_of("localgd", OVER, {**given, "dataset": "nowhere.txt"}), show=silent)


def test_without_a_target_the_lowest_loss_is_best(given, tmp_path):
    del given["target-gap"]
    results = run_sweep(sweep_of("localgd", OVER, given), show=silent)
    losses = [cell.last["loss"] for cell in results.cells]
    assert results.best is results.cells[losses.index(min(losses))]
    assert (tmp_path / "out" / "sweep.png").exists()
