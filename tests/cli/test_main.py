import json
import subprocess
import sys

import pytest

from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.results import Summary


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
        (["--x0", "normal:loc=1e308"], "f(x0) is"),
        (["--x0", "normal:loc=1e30", "--dtype", "float32"], "float32"),
        (["--clients", "several"], "several"),
        (["--stepsize", "-1"], "stepsize"),
        (["--model", "mlp"], "give a number"),
        (["--model", "mlp", "--stepsize", "1", "--fstar", "solve"], "not convex"),
        (["--model", "linear", "--l2", "0", "--fstar", "solve"], "l2"),
        (["--no-such-option"], "--no-such-option"),
        (["--rounds"], "--rounds"),
        (["--out", "{junk}"], "not a folder"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--log", "paper"], "'paper' is not one of tensorboard"),
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
        ("run", "gd", "--shift-init", "gradient"),
        ("run", "scafflix", "--p", 0.2, "--aggregator", "median"),
        ("run", "sppm", "--solver", "lbfgs", "--aggregator", "median"),
        ("compare", "gd", "gd:shift-init=gradient"),
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


def test_without_a_command_the_help_is_shown(fedstrategies):
    code, out, err = fedstrategies()
    assert code in (0, 2)
    assert "compare" in out + err
    assert "fedstrategies: " not in err


@pytest.mark.parametrize("command", ["run", "compare"])
def test_gaps_in_float32(fedstrategies, problem, tmp_path, command):
    given = ("--dtype", "float32", "--target-gap", 1e-3, "--out", tmp_path / "out")
    assert fedstrategies(command, "ef21", *problem, *given)[0] == 0
    out = tmp_path / "out" if command == "run" else tmp_path / "out" / "ef21"
    assert Summary.read(out).last["gap"] > 0


@pytest.mark.parametrize("arguments", [("gd",), ("ef21",), ("sppm", "--solver", "gd"), ("fedavg",)])
def test_a_robust_aggregator_in_place_of_the_mean(fedstrategies, libsvm_file, tmp_path, arguments):
    losses = []
    for name, given in (("mean", ()), ("median", ("--aggregator", "median"))):
        out = tmp_path / name
        given = (*given, "--dataset", libsvm_file, "--clients", 4, "--rounds", 20, "--out", out)
        assert fedstrategies("run", *arguments, *given)[0] == 0
        losses.append(read_history(out / "history.jsonl")[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] < read_history(out / "history.jsonl")[0]["loss"]


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


def test_info(fedstrategies):
    code, out, _ = fedstrategies("info")
    assert code == 0
    for word in ("efbv", "top-k", "nice", "mushrooms", "linear:", "mlp:", "two classes", "torch"):
        assert word in out
    for word in ("CIFAR-10", "lenet:", "resnet18:"):
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
