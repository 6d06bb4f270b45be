"""Which cells a sweep has."""

import pytest

from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.sweep_grid import parse_over, sweep_of

GIVEN = {"clients": 4, "rounds": 30, "target-gap": 1e-2, "out": "out"}
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
        (["local-steps=9..1:-1"], "not a range"),
        (["local-steps=1..99999999999999999999999"], "has 99999999999999999999999 values"),
        (["local-steps=1..1000", "seed=1..1000"], "1000000 cells; more than 100000"),
        (["target-gap=0.1,0.01"], "target-gap is the same for all cells"),
        (["cost-inner=0.1,1"], "cost-inner is the same for all cells"),
    ],
)
def test_wrong_grids_are_refused(over, why):
    with pytest.raises(ConfigError, match=why):
        parse_over(over)


def test_paths_are_no_ranges():
    assert parse_over(["dataset=../a.txt,../b.txt"]) == {"dataset": ("../a.txt", "../b.txt")}


def test_every_cell_is_checked_before_one_runs():
    with pytest.raises(ConfigError, match="local-steps: 0 is below 1"):
        sweep_of("localgd", ["local-steps=2,1,0"], GIVEN)
    with pytest.raises(ConfigError, match="alpha: localgd has no such option"):
        sweep_of("localgd", ["alpha=0.1,0.2"], GIVEN)
    with pytest.raises(ConfigError, match="also given as --local-steps"):
        sweep_of("localgd", OVER, {**GIVEN, "local-steps": 3})
    with pytest.raises(ConfigError, match=r"stepsize=1 and stepsize=1\.0 are the same"):
        sweep_of("localgd", ["stepsize=1,2,1.0"], GIVEN)


def test_what_a_file_says_gives_way():
    sweep = sweep_of("localgd", OVER, {"l2": 0.2}, defaults={**GIVEN, "local-steps": 9, "l2": 0.3})
    assert [config.local_steps for _, config in sweep.configs] == [1, 1, 2, 2, 3, 3]
    assert (sweep.first.clients, sweep.first.l2) == (4, 0.2)


def test_names_of_folders_are_safe():
    sweep = sweep_of("sppm", ["solver=local-gd:steps=2,lbfgs"], GIVEN)
    names = [str(config.out).rsplit("/", 1)[1] for _, config in sweep.configs]
    assert names == ["solver=local-gd%3asteps=2", "solver=lbfgs"]
    long = [",".join(["0.5"] * 99 + [last]) for last in ("0.25", "0.75")]
    sweep = sweep_of("scafflix", [f"alpha={';'.join(long)}"], {**GIVEN, "clients": 100})
    names = [str(config.out).rsplit("/", 1)[1] for _, config in sweep.configs]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 255
