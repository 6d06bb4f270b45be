import json
import subprocess
import sys

import pytest

from fedstrategies.cli import main as command_line
from fedstrategies.experiment import session
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.results import Summary


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    monkeypatch.setattr(session, "_draw", lambda directory: None)


@pytest.fixture
def fedstrategies(capsys):
    """Call the command; (exit code, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            command_line.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit.value.code, captured.out, captured.err

    return call


@pytest.fixture
def problem(libsvm_file):
    return ("--dataset", libsvm_file, "--clients", 4, "--rounds", 8, "--compressor", "rand-k:k=2")


def test_run(fedstrategies, problem, tmp_path):
    code, out, err = fedstrategies("run", "efbv", *problem, "--out", tmp_path / "out")
    assert code == 0
    assert "L_tilde" in out
    assert "step size" in out
    assert "round 8/8" in err
    assert Summary.read(tmp_path / "out").status == "done"


def test_run_a_network(fedstrategies, problem, tmp_path):
    given = ("--model", "mlp", "--width", 3, "--stepsize", 0.2, "--out", tmp_path / "out")
    code, out, _ = fedstrategies("run", "ef21", *problem, *given)
    assert code == 0
    assert "step size   0.2 (no theory without L)" in out
    assert Summary.read(tmp_path / "out").dimension == 6 * 3 + 3 + 3 * 2 + 2


def test_compare_networks_by_their_gradients(fedstrategies, problem, tmp_path):
    given = ("--model", "mlp", "--width", 3, "--stepsize", 0.2, "--out", tmp_path / "out")
    code, out, _ = fedstrategies("compare", "ef21", "gd", *problem, *given)
    assert code == 0
    assert "gd" in out
    assert Summary.read(tmp_path / "out" / "gd").fstar is None
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_quiet_prints_nothing(fedstrategies, problem, tmp_path):
    assert fedstrategies("run", "gd", *problem[:-2], "--quiet", "--out", tmp_path / "a") == (
        0,
        "",
        "",
    )
    names = ("efbv", "gd")
    assert fedstrategies("compare", *names, *problem, "--quiet", "--out", tmp_path / "b")[1:] == (
        "",
        "",
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--dataset", "{junk}"], "LIBSVM"),
        (["--dataset", "nowhere.txt"], "nowhere.txt"),
        (["--compressor", "top-k:k=7"], "d = 6"),
        (["--compressor", "top-j:k=1"], "top-j"),
        (["--clients", "41"], "41"),
        (["--clients", "several"], "several"),
        (["--stepsize", "-1"], "stepsize"),
        (["--model", "mlp"], "give a number"),
        (["--model", "mlp", "--stepsize", "1", "--fstar", "solve"], "not convex"),
        (["--model", "linear", "--l2", "0", "--fstar", "solve"], "l2"),
        (["--no-such-option"], "--no-such-option"),
        (["--rounds"], "--rounds"),
        (["--out", "{junk}"], "not a folder"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["surplus"], "surplus"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    fedstrategies, problem, tmp_path, monkeypatch, arguments, word
):
    junk = tmp_path / "junk"
    junk.write_text("this is not LIBSVM\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = [argument.format(junk=junk) for argument in arguments]
    code, out, err = fedstrategies("run", "efbv", *problem, *given)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert word in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "sgd"),
        ("jog",),
        ("compare",),
        ("compare", "efbv", "efbv"),
        ("compare", "efbv", "ef21:compressor=top-k:k=1"),
        ("compare", "efbv", "efbv:compressor"),
        ("compare", "efbv", "efbv:colour=red"),
        ("run", "diana", "--compressor", "top-k:k=1", "--dataset", "mushrooms"),
        ("plot", "nowhere", "-o", "x.png"),
        ("plot", "nowhere", "-o", "x.png", "--x", "furlongs"),
    ],
)
def test_wrong_usage(fedstrategies, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = fedstrategies(*arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_divergence_is_exit_code_1_with_the_round(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, _, err = fedstrategies("run", "efbv", *problem, "--stepsize", 1e6, "--out", out)
    assert code == 1
    assert "round 1" in err
    assert "Traceback" not in err
    assert Summary.read(out).status == "diverged"
    assert read_history(out / "history.jsonl")[-1]["round"] == 1


def test_interruption_is_exit_code_130(fedstrategies, problem, tmp_path, monkeypatch):
    from fedstrategies.experiment.recorder import Recorder

    record = Recorder.on_round

    def interrupted(self, round):
        record(self, round)
        if round.round == 2:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(Recorder, "on_round", interrupted)
    code, _, err = fedstrategies("run", "efbv", *problem, "--out", tmp_path / "out")
    assert code == 130
    assert "interrupted" in err
    assert Summary.read(tmp_path / "out").status == "interrupted"
    assert len(read_history(tmp_path / "out" / "history.jsonl")) == 3


def test_a_configuration_file_and_options_over_it(fedstrategies, problem, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    fedstrategies("run", "ef21", *problem, "--quiet", "--out", first)
    arguments = ("--config", first / "config.toml", "--rounds", 3, "--out", second)
    assert fedstrategies("run", "efbv", *arguments)[0] == 0
    summary = Summary.read(second)
    assert (summary.algorithm, summary.clients, summary.last["round"]) == ("efbv", 4, 3)


def test_compare_writes_a_table_and_a_picture(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = fedstrategies(
        "compare",
        "efbv",
        "ef21",
        "diana",
        "gd",
        "ef21:compressor=top-k:k=2",
        *problem,
        "--out",
        out,
    )
    assert code == 0
    table = (out / "comparison.md").read_text()
    for name in ("efbv", "ef21", "diana", "gd"):
        assert name in printed
        assert f"| {name} |" in table
        assert Summary.read(out / name).status == "done"
        assert Summary.read(out / name).fstar is not None
    assert "top-k:k=2" in (out / "ef21" / "config.toml").read_text()
    assert "rand-k:k=2" in (out / "efbv" / "config.toml").read_text()
    assert "identity" in (out / "gd" / "config.toml").read_text()
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_compare_goes_on_after_a_failure(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, printed, err = fedstrategies(
        "compare", "efbv", "gd", "efbv:stepsize=1e6", *problem, "--out", out
    )
    assert code == 1
    assert "efbv (diverged)" in printed
    assert "round 1" in err
    assert Summary.read(out / "gd").status == "done"


def test_compare_checks_everything_first(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, _, err = fedstrategies(
        "compare", "efbv", "diana", "diana:compressor=top-k:k=2", *problem, "--out", out
    )
    assert code == 2
    assert "unbiased" in err
    assert not out.exists()


def test_plot(fedstrategies, problem, tmp_path):
    for name in ("efbv", "gd"):
        compressor = problem if name == "efbv" else problem[:-2]
        fedstrategies("run", name, *compressor, "--quiet", "--out", tmp_path / name)
    for x, y in (("rounds", "loss"), ("uplink_bytes", "grad_norm_sq"), ("seconds", "accuracy")):
        picture = tmp_path / f"{x}.png"
        code, _, err = fedstrategies(
            "plot", tmp_path / "efbv", tmp_path / "gd", "--x", x, "--y", y, "-o", picture
        )
        assert (code, err) == (0, "")
        assert picture.read_bytes().startswith(b"\x89PNG")
    code, _, err = fedstrategies("plot", tmp_path / "gd", "--y", "gap", "-o", tmp_path / "none.png")
    assert code == 2
    assert "gap" in err


def test_info(fedstrategies):
    code, out, _ = fedstrategies("info")
    assert code == 0
    for word in ("efbv", "top-k", "nice", "mushrooms", "linear:", "mlp:", "two classes", "torch"):
        assert word in out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["info"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys, json\n"
        "from fedstrategies.cli.main import _exit_code\n"
        f"code = _exit_code({arguments!r})\n"
        "heavy = [m for m in ('torch', 'ray', 'flwr', 'numpy', 'matplotlib') if m in sys.modules]\n"
        "print(json.dumps([code, heavy]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
