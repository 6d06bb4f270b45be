"""Scafflix and its relatives as experiments: configuration, history, personal models."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedstrategies.experiment import (
    ConfigError,
    Summary,
    compare,
    comparison_configs,
    config_from_mapping,
    load_problem,
    read_history,
    read_toml,
    run,
    to_toml,
)
from fedstrategies.experiment.families import ALGORITHMS
from fedstrategies.experiment.methods import method_of
from fedstrategies.experiment.progress import progress
from fedstrategies.experiment.scafflix_config import ScafflixConfig
from fedstrategies.objectives import ExactLocalSolver, LogisticRegression

FAMILY = [name for name, family in ALGORITHMS.items() if family is ScafflixConfig]


@pytest.fixture
def config(libsvm_file, tmp_path):
    return ScafflixConfig(
        dataset=str(libsvm_file),
        clients=4,
        rounds=12,
        alpha=0.3,
        fstar="solve",
        out=str(tmp_path / "out"),
    )


def with_algorithm(config, algorithm, **change):
    keys = ALGORITHMS[algorithm].not_for.get(algorithm, ())
    cleared = {key.replace("-", "_"): None for key in keys}
    return dataclasses.replace(config, **{**cleared, "algorithm": algorithm, **change})


def history(directory):
    records = read_history(Path(directory) / "history.jsonl")
    return [{**record, "seconds": None} for record in records]


def test_the_reference_of_the_mushrooms(tmp_path):
    summary = run(
        ScafflixConfig(
            clients=8,
            rounds=20,
            local_steps=6,
            alpha=0.1,
            fstar="solve",
            accuracy_every=0,
            out=str(tmp_path / "out"),
        )
    )
    gaps = {record["round"]: record["gap"] for record in history(summary.out)}
    assert gaps[10] == pytest.approx(3.29307004e-6, rel=1e-5)
    assert gaps[20] == pytest.approx(2.86961538e-8, rel=1e-5)
    assert summary.theory["p"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("algorithm", FAMILY)
def test_every_algorithm_descends_and_every_path_agrees(config, tmp_path, algorithm):
    outs = [tmp_path / name for name in ("fast", "again", "messages")]
    for out, fast in zip(outs, ("require", "require", "never"), strict=True):
        chosen = with_algorithm(config, algorithm, out=str(out), fast=fast, participation=3)
        assert run(chosen).status == "done"
    fast, again, messages = map(history, outs)
    assert fast == again == messages
    assert fast[-1]["gap"] < fast[0]["gap"]
    assert 0 <= fast[-1]["accuracy_personal_worst_decile"] <= fast[-1]["accuracy_personal"] <= 1


@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("algorithm", FAMILY)
def test_other_models(config, tmp_path, model, algorithm):
    given = {"stepsize": 0.1, "local_steps": 3, "fstar": None, "l2": 0.01}
    if model == "mlp":
        given |= {
            "width": 3,
            "x0": "glorot",
            "local_epochs": 2,
            "local_stepsize": 0.1,
            "local_batch_size": 4,
        }
    chosen = with_algorithm(dataclasses.replace(config, model=model, **given), algorithm)
    summary = run(chosen)
    assert summary.status == "done"
    assert summary.last["loss"] < history(summary.out)[0]["loss"]


def test_losses_and_accuracies_are_those_of_the_deployed_models(config):
    config = dataclasses.replace(config, test_fraction=0.3, alpha="0.3,1,0,0.6", save_personal=True)
    summary = run(config)
    problem = load_problem(config.problem)
    x = load_file(Path(config.out) / "model.safetensors")["weight"]
    losses, accuracies = [], []
    for index, alpha in enumerate(config.alphas):
        saved = load_file(Path(config.out) / "personal" / f"client-{index:05d}.safetensors")
        f_i = problem.objective(index)
        assert isinstance(f_i, LogisticRegression)
        alone = ExactLocalSolver().solve(f_i, start=torch.zeros_like(x), key=torch.zeros(1)).x
        assert torch.allclose(saved["weight"], alpha * x + (1 - alpha) * alone, atol=1e-10)
        losses.append(float(f_i.value(saved["weight"])))
        accuracies.append(float(problem.held_out_objective(index).accuracy(saved["weight"])))
    assert summary.last["loss"] == pytest.approx(sum(losses) / 4, rel=1e-12)
    assert summary.last["accuracy_personal"] == pytest.approx(sum(accuracies) / 4)
    assert summary.last["accuracy_personal_worst_decile"] == pytest.approx(min(accuracies))
    assert summary.last["accuracy"] == pytest.approx(problem.accuracy(x))


def test_overwrite_removes_the_personal_models_of_an_earlier_run(config):
    run(dataclasses.replace(config, save_personal=True))
    folder = Path(config.out) / "personal"
    (folder / "notes.txt").write_text("mine")
    assert len(list(folder.glob("client-*"))) == 4
    run(dataclasses.replace(config, overwrite=True))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_the_cost_of_the_local_optima_is_reported(config):
    found = run(config).local_solve
    assert found["solver"] == "exact:tolerance=1e-12"
    assert 1 <= found["passes_mean"] <= found["passes_max"] < 50
    assert found["residual_max"] <= 1e-12
    again = Summary.read(Path(config.out))
    assert again.local_solve["passes_mean"] == found["passes_mean"]
    assert run(with_algorithm(config, "scaffnew", overwrite=True)).local_solve == {}


def test_local_optima_are_solved_once_whatever_alpha_and_algorithm(config, monkeypatch, tmp_path):
    run(dataclasses.replace(config, seed=77))

    def refuse(*_, **__):
        raise AssertionError("solved again")

    monkeypatch.setattr(ExactLocalSolver, "solve", refuse)
    other = dataclasses.replace(config, seed=77, alpha=0.7, out=str(tmp_path / "other"))
    run(other)
    run(with_algorithm(other, "flix", out=str(tmp_path / "flix")))


def test_measuring_less_often_leaves_the_run_alone(config, tmp_path):
    run(config)
    run(dataclasses.replace(config, measure_every=5, out=str(tmp_path / "rare")))
    often, rare = history(config.out), history(tmp_path / "rare")
    assert [r["round"] for r in rare if "loss" in r] == [0, 5, 10, 12]
    assert len(rare) == len(often)
    for record, full in zip(rare, often, strict=True):
        assert record.items() <= full.items()


def test_compare_across_families(libsvm_file, tmp_path):
    shared = {
        "dataset": str(libsvm_file),
        "clients": 4,
        "rounds": 8,
        "alpha": 0.3,
        "compressor": "identity",
        "out": str(tmp_path / "cmp"),
    }
    configs = comparison_configs(["scafflix", "flix", "fedavg", "ef21"], shared)
    assert (configs["scafflix"].alpha, configs["fedavg"].alpha) == (0.3, None)

    def show(name, config):
        return progress(name, config.rounds, quiet=True)

    found = compare(configs, show=show)
    assert found.ok
    assert "own alpha" in found.note()
    plain = {**shared, "out": str(tmp_path / "one")}
    del plain["alpha"]
    alone = compare(comparison_configs(["ef21"], plain), show=show)
    assert "alpha" not in alone.note()
    with pytest.raises(ConfigError, match="none of ef21, gd"):
        comparison_configs(["ef21", "gd"], shared)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"alpha": "half"}, "alpha"),
        ({"alpha": "1.5"}, "outside"),
        ({"alpha": "0.1,0.2"}, "2 weights for 20"),
        ({"alpha": "0"}, "nothing to train"),
        ({"algorithm": "fedavg", "alpha": "0.5"}, "alpha: fedavg"),
        ({"algorithm": "flix", "local-steps": 3}, "local-steps: flix"),
        ({"p": 0.5, "local-steps": 3}, "one of the two"),
        ({"p": 2}, "p: 2"),
        ({"p": "often"}, "p: 'often'"),
        ({"compressor": "top-k:k=1"}, "TAMUNA"),
        ({"prox": "l1:0.1"}, "prox"),
        ({"server-optimizer": "lion"}, "server-optimizer"),
        ({"server-optimizer": "adam"}, "lr"),
        ({"local-epochs": 3}, "exactly"),
        ({"model": "mlp", "stepsize": 0.1}, "p: the theory"),
        ({"model": "mlp", "stepsize": 0.1, "local-steps": 2}, "local-epochs"),
        ({"lambda": 0.5}, "lambda: scafflix has no such option"),
        ({"algorithm": "efbv", "alpha": 0.1}, "alpha: efbv has no such option"),
    ],
)
def test_wrong_values_are_refused_in_one_line(values, word):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"algorithm": "scafflix", **values})
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_theory_without_the_clients_constants_is_refused(config, tmp_path):
    given = {"model": "mlp", "smoothness": "L=1,L_tilde=1", "local_steps": 2, "fstar": None}
    network = {
        "x0": "glorot",
        "local_epochs": 1,
        "local_stepsize": 0.1,
        "out": str(tmp_path / "none"),
    }
    with pytest.raises(ConfigError, match="L_i"):
        run(dataclasses.replace(config, **given, **network))
    assert not (tmp_path / "none").exists()


def test_round_trip_through_toml(config, tmp_path):
    path = tmp_path / "config.toml"
    for chosen in (config, dataclasses.replace(config, alpha="0,0.1,0.2,1", p=0.25)):
        path.write_text(to_toml(chosen))
        assert read_toml(path) == chosen


def test_flix_with_an_optimiser_on_the_server_needs_no_step_size():
    given = {"algorithm": "flix", "model": "mlp", "local-epochs": 1, "local-stepsize": 0.1}
    assert config_from_mapping({**given, "server-optimizer": "adam:lr=0.1"}).uses_stepsize is False
    with pytest.raises(ConfigError, match="stepsize"):
        config_from_mapping(given)


def test_the_server_optimiser_reaches_the_strategy(config):
    adam = dataclasses.replace(config, server_optimizer="adam:lr=0.05")
    strategy = method_of(adam, load_problem(adam.problem)).strategy()
    assert strategy.server_optimizer.spec.startswith("adam:lr=0.05")
    assert method_of(config, load_problem(config.problem)).strategy().server_optimizer is None
    assert json.loads((Path(run(adam).out) / "summary.json").read_text())["status"] == "done"
