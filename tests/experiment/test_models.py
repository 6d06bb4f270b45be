"""The torch models of ``--model``."""

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedstrategies.data import DataError
from fedstrategies.experiment import runner
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.objectives import Smoothness, softmax_smoothness

GIVEN = {"linear": {}, "mlp": {"stepsize": 0.3, "width": 5}}


@pytest.fixture
def three_classes(tmp_path: Path) -> Path:
    """43 rows of 5 features in three noisy clusters, labels 2, 3 and 7."""
    draw = random.Random(1)
    lines = []
    for row in range(43):
        kind = row % 3
        entries = [draw.gauss(2.0 if j == kind else 0.0, 1.0) for j in range(5)]
        text = " ".join(f"{j}:{value:.4f}" for j, value in enumerate(entries, start=1))
        lines.append(f"{(2, 3, 7)[kind]} {text}")
    path = tmp_path / "three.libsvm"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make(three_classes, tmp_path):
    def config(model, **change):
        settings = {
            "dataset": str(three_classes),
            "clients": 4,
            "rounds": 15,
            "l2": 0.01,
            "algorithm": "ef21",
            "compressor": "top-k:k=4",
            "out": str(tmp_path / "out"),
            **GIVEN[model],
        }
        return EFBVConfig(model=model, **{**settings, **change})

    return config


def history(directory):
    records = read_history(Path(directory) / "history.jsonl")
    return [{**record, "seconds": None} for record in records]


@pytest.mark.parametrize("model", list(GIVEN))
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shift_init": "gradient", "test_fraction": 0.2},
        {"participation": 2, "algorithm": "efbv", "compressor": "rand-k:k=4"},
        {"batch_size": 3},
        {"prox": "l1:0.01", "dtype": "float64"},
    ],
)
def test_paths_and_repeats_give_the_same_history(make, tmp_path, model, change):
    outs = [tmp_path / name for name in ("first", "again", "messages")]
    for out, fast in zip(outs, ("require", "require", "never"), strict=True):
        assert runner.run(make(model, out=str(out), fast=fast, **change)).status == "done"
    first, again, messages = map(history, outs)
    assert first == again
    assert first == messages
    assert first[-1]["loss"] < first[0]["loss"]


@pytest.mark.parametrize("model", list(GIVEN))
@pytest.mark.parametrize("algorithm", ["efbv", "ef21", "diana", "gd"])
def test_every_algorithm_descends(make, model, algorithm):
    compressor = None if algorithm == "gd" else "rand-k:k=8"
    summary = runner.run(
        make(model, algorithm=algorithm, compressor=compressor, stepsize=0.1, rounds=60)
    )
    first, last = history(summary.out)[0], summary.last
    assert last["loss"] < 0.95 * first["loss"]
    assert last["accuracy"] > first["accuracy"]


def test_a_run_of_the_network_writes_what_it_knows(make):
    summary = runner.run(make("mlp", rounds=40))
    assert summary.status == "done"
    assert (summary.smoothness, summary.stepsize, summary.fstar) == ({}, 0.3, None)
    assert "gamma" not in summary.theory
    assert summary.theory["lam"] == 1.0
    model = load_file(Path(summary.out) / "model.safetensors")
    assert {name: tuple(array.shape) for name, array in model.items()} == {
        "hidden.weight": (5, 5),
        "hidden.bias": (5,),
        "output.weight": (3, 5),
        "output.bias": (3,),
    }
    assert all(array.dtype == torch.float32 for array in model.values())
    assert summary.dimension == 48
    # Accuracy from the file, without the project's own code.
    problem = load_problem(make("mlp").problem)
    hidden = torch.tanh(problem.features @ model["hidden.weight"].T + model["hidden.bias"])
    guesses = (hidden @ model["output.weight"].T + model["output.bias"]).argmax(dim=1)
    assert summary.last["accuracy"] == pytest.approx(
        float((guesses == problem.labels).double().mean()), abs=1e-6
    )


def test_labels_become_classes_and_held_out_rows_too(make):
    problem = load_problem(make("linear", test_fraction=0.3).problem)
    assert problem.labels.dtype == torch.int64
    assert problem.labels[:4].tolist() == [0, 1, 2, 0]
    features, labels = problem.evaluation
    assert len(features) == len(labels) == 12
    x = torch.zeros(problem.dimension)
    x[problem.dimension - 2] = 1.0  # the bias of class 1
    assert problem.accuracy(x) == pytest.approx(float((labels == 1).double().mean()))


def test_theory_uses_the_exact_constants_of_softmax_regression(make):
    config = make("linear", algorithm="gd", compressor=None, fstar="solve", rounds=200)
    prepared = prepare(config)
    problem = prepared.problem
    rows = [problem.features[shard] for shard in problem.shards]
    assert problem.smoothness == softmax_smoothness(rows, l2=0.01)
    assert prepared.stepsize == 1 / problem.smoothness.L
    # At the step 1/L gradient descent never ascends.
    losses = [record["loss"] for record in history(runner.run(config).out)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("prox", ["none", "l1:0.02", "l2sq:0.1"])
def test_fstar_of_softmax_regression_is_reached_from_above(make, prox):
    summary = runner.run(
        make(
            "linear",
            algorithm="gd",
            compressor=None,
            l2=0.3,
            prox=prox,
            fstar="solve",
            dtype="float64",
            overlap=2,
            rounds=300,
        )
    )
    gaps = [record["gap"] for record in history(summary.out)]
    assert min(gaps) > -1e-13
    assert gaps[-1] < 1e-6 * gaps[0]


def test_two_classes_fit_every_model(libsvm_file):
    for model in ("logreg", "linear", "mlp"):
        problem = load_problem(ProblemConfig(dataset=str(libsvm_file), clients=4, model=model))
        assert 0.0 <= problem.accuracy(problem.start_point) <= 1.0
        assert problem.start_point.shape == (problem.dimension,)
        value, _ = problem.objectives.value_and_gradient(problem.start_point)
        assert value.shape == (4,)


def test_the_start_of_the_network_moves_every_layer(make):
    problem = load_problem(make("mlp").problem)
    parts = problem.named(problem.start_point)
    assert parts["hidden.weight"].unique().numel() == 25
    _, gradient = problem.objective(0).value_and_gradient(problem.start_point)
    assert all(bool(part.any()) for part in problem.layout.unflatten(gradient).values())
    other = load_problem(make("mlp", seed=1).problem)
    assert not torch.equal(problem.start_point, other.start_point)


def test_stated_constants_give_the_network_a_theory(make):
    stated = make("mlp", stepsize="theory*2", smoothness="L=3,L_tilde=4")
    prepared = prepare(stated)
    # max L_i <= sqrt(n) L_tilde, whatever they are.
    assert prepared.problem.smoothness == Smoothness(L=3.0, L_tilde=4.0, L_max=8.0)
    assert prepared.stepsize == 2 * prepared.theory["gamma"] > 0
    named = prepare(dataclasses.replace(stated, smoothness="L=3,L_tilde=4,L_max=5"))
    assert named.problem.smoothness.L_max == 5.0


def test_a_step_size_given_as_a_number_does_not_change_with_the_model(make):
    assert prepare(make("linear", stepsize=0.25)).stepsize == 0.25


@pytest.mark.parametrize(
    ("model", "change", "word"),
    [
        ("linear", {"l2": 0.0, "fstar": "solve"}, "l2"),
        ("linear", {"clients": 44}, "44 clients"),
    ],
)
def test_what_the_data_refuse_is_one_line_and_writes_nothing(make, tmp_path, model, change, word):
    with pytest.raises((ConfigError, DataError), match=word) as caught:
        runner.run(make(model, **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_logistic_regression_names_the_models_for_more_classes(three_classes):
    with pytest.raises(DataError, match=r"3 classes.*linear or mlp"):
        load_problem(ProblemConfig(dataset=str(three_classes), clients=4))


def test_a_minimum_that_is_not_reached_is_one_line(libsvm_file, tmp_path, monkeypatch):
    from fedstrategies.experiment import models
    from fedstrategies.objectives import SolveError

    def fail(*arguments, **keywords):
        raise SolveError("no minimiser within 3 steps")

    monkeypatch.setattr(models, "minimise", fail)
    config = EFBVConfig(
        dataset=str(libsvm_file), clients=4, compressor="top-k:k=2", l2=0.02, fstar="solve"
    )
    with pytest.raises(ConfigError, match=r"^fstar: no minimiser"):
        prepare(dataclasses.replace(config, out=str(tmp_path / "out")))


def test_digits():
    pytest.importorskip("sklearn")
    problem = load_problem(
        ProblemConfig(dataset="digits", clients=3, partition="iid", model="mlp", width=16)
    )
    assert problem.dimension == 64 * 16 + 16 + 16 * 10 + 10
    assert problem.labels.unique().tolist() == list(range(10))
