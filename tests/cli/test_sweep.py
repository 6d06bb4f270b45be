import json


def test_sweep(fedstrategies, libsvm_file, tmp_path):
    out = tmp_path / "out"
    given = ("--dataset", libsvm_file, "--clients", 4, "--rounds", 40, "--target-gap", 1e-2)
    over = ("--over", "inner-rounds=1..3", "--over", "prox-stepsize=1,100")
    code, table, progress = fedstrategies("sweep", "sppm", *given, *over, "--out", out)
    assert code == 0
    assert "best: target reached" in table
    assert "6 of 6 cells, by cost to target-gap" in table
    assert progress.count("cell ") == 6
    assert json.loads((out / "sweep.json").read_text())["grid"] == {
        "inner-rounds": ["1", "2", "3"],
        "prox-stepsize": ["1", "100"],
    }
    before = (out / "sweep.json").read_bytes()
    code, _, error = fedstrategies("sweep", "sppm", *given, *over, "--out", out)
    assert (code, error.count("\n")) == (2, 1)
    assert "is not empty" in error
    assert fedstrategies("sweep", "sppm", *given, *over, "--out", out, "--resume")[0] == 0
    assert (out / "sweep.json").read_bytes() == before


def test_a_sweep_in_which_nothing_ends_well_fails(fedstrategies, libsvm_file, tmp_path):
    given = ("--dataset", libsvm_file, "--clients", 4, "--out", tmp_path / "out")
    code, _, error = fedstrategies("sweep", "localgd", *given, "--over", "stepsize=1e8,1e9")
    assert code == 1
    assert "no cell of the sweep ended well" in error


def test_wrong_sweeps_are_refused(fedstrategies, libsvm_file, tmp_path):
    given = ("--dataset", libsvm_file, "--out", tmp_path / "out")
    for over, why in (
        ("stepsize", "is not KEY=VALUES"),
        ("colour=1", "no option 'colour'"),
        ("inner-rounds=0..2", "inner-rounds: 0 is below 1"),
        ("alpha=0.1", "alpha: sppm has no such option"),
    ):
        code, out, error = fedstrategies("sweep", "sppm", *given, "--over", over)
        assert (code, out, error.count("\n")) == (2, "", 1), over
        assert why in error
    assert not (tmp_path / "out").exists()


def test_quiet_sweeps_say_nothing(fedstrategies, libsvm_file, tmp_path):
    given = ("--dataset", libsvm_file, "--clients", 4, "--rounds", 5, "--quiet")
    over = ("--over", "local-steps=1..2")
    called = fedstrategies("sweep", "localgd", *given, *over, "--out", tmp_path / "out")
    assert called == (0, "", "")
