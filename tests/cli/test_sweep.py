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


def test_a_configuration_file_of_a_run_is_swept(fedstrategies, libsvm_file, tmp_path):
    """It holds every option, the swept one too."""
    given = ("--dataset", libsvm_file, "--clients", 4, "--rounds", 5, "--quiet")
    fedstrategies("run", "localgd", *given, "--out", tmp_path / "run")
    file = ("--config", tmp_path / "run" / "config.toml", "--over", "local-steps=1..2")
    assert fedstrategies("sweep", "localgd", *file, "--out", tmp_path / "out") == (0, "", "")
    cells = json.loads((tmp_path / "out" / "sweep.json").read_text())["cells"]
    assert [cell["values"]["local-steps"] for cell in cells] == ["1", "2"]
    code, _, error = fedstrategies("sweep", "localgd", *file, "--local-steps", 3)
    assert (code, error.count("\n")) == (2, 1)
    assert "also given as --local-steps" in error


def test_the_table_shows_what_is_compared_and_why_cells_fail(fedstrategies, libsvm_file, tmp_path):
    given = ("--dataset", libsvm_file, "--clients", 4, "--rounds", 5)
    over = ("--over", "compressor=top-k:k=50;top-k:k=2")
    code, table, progress = fedstrategies("sweep", "ef21", *given, *over, "--out", tmp_path / "a")
    assert code == 0
    header = table.splitlines()[0].split()
    assert header == ["compressor", "cost", "rounds", "uplink", "total", "loss", "accuracy"]
    assert "1 refused, e.g. compressor=top-k:k=50: ef21: k = 50 exceeds the dimension" in table
    assert "refused (ef21: k = 50 exceeds" in progress
    missed = ("--target-gap", 1e-12, "--over", "compressor=top-k:k=1;top-k:k=2")
    code, table, _ = fedstrategies("sweep", "ef21", *given, *missed, "--out", tmp_path / "b")
    assert code == 0
    assert table.count("target missed") == 2
    assert "best" not in table
    assert "sweep.png" not in table


def test_an_interrupted_sweep_says_how_to_go_on(fedstrategies, libsvm_file, tmp_path, monkeypatch):
    from fedstrategies.experiment import sweep

    def interrupted(config, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run", interrupted)
    given = ("--dataset", libsvm_file, "--clients", 4, "--over", "local-steps=1..2")
    code, _, error = fedstrategies("sweep", "localgd", *given, "--out", tmp_path / "out")
    assert code == 130
    assert f"to go on with the sweep in {tmp_path / 'out'}, give --resume" in error
