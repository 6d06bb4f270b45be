"""Private experiments: the noise, what is recorded, what is refused."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.methods import method_of
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run
from fedstrategies.privacy import Ledger, clipped_logistic_smoothness

pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")

MUSHROOMS = {"epsilon": 4.0, "max-grad-norm": 1.0, "clip-rows": 1.0, "l2": 0.001}
NETWORK = {
    "algorithm": "fedp3",
    "dataset": "digits",
    "model": "mlp",
    "width": 8,
    "l2": 0.0,
    "stepsize": 0.2,
    "clip-rows": "",
}


@pytest.fixture
def config(tmp_path):
    def make(**options):
        values = {
            **MUSHROOMS,
            "clients": 6,
            "rounds": 12,
            "out": str(tmp_path / "run"),
            "overwrite": True,
            "quiet": True,
            **{key.replace("_", "-"): value for key, value in options.items()},
        }
        return config_from_mapping(values)

    return make


@pytest.mark.parametrize(
    "options",
    [
        {"compressor": "identity"},
        {"algorithm": "scafflix", "alpha": 1.0, "local-steps": 1},
        {"algorithm": "sppm", "solver": "gd", "inner-rounds": 5, "prox-stepsize": 100.0},
    ],
    ids=["efbv", "scafflix", "sppm"],
)
def test_mushrooms_at_epsilon_four(config, tmp_path, options):
    """20 clients, 100 rounds: an independent loop needs a noise multiplier of 11.58."""
    summary = run(config(clients=20, rounds=100, **options))
    assert summary.privacy["noise_multiplier"] == pytest.approx(11.58, abs=0.005)
    assert 3.99 < summary.privacy["epsilon_max"] <= 4.0
    assert summary.last["accuracy"] >= 0.95
    history = read_history(tmp_path / "run" / "history.jsonl")
    epsilons = [record["epsilon_max"] for record in history]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == 0.0
    assert epsilons[-1] == summary.privacy["epsilon_max"]
    assert Summary.read(tmp_path / "run").privacy == summary.privacy


@pytest.mark.parametrize(
    "options",
    [
        {"compressor": "top-k:k=20"},
        {"compressor": "rand-k:fraction=0.2", "shift-init": "gradient", "participation": 3},
        {"algorithm": "scafflix", "alpha": 1.0, "p": 0.4, "participation": 4},
        {"algorithm": "fedavg", "local-steps": 3, "batch-size": 200},
        {"algorithm": "flix", "alpha": 1.0},
        {"algorithm": "localgd", "local-steps": 2, "sampling": "nice", "cohort-size": 2},
        {
            "algorithm": "sppm",
            "solver": "local-gd:steps=2",
            "inner-rounds": 5,
            "sampling": "stratified",
            "cohort-size": 3,
        },
        {**NETWORK, "layers": "lowerb", "local-steps": 2, "batch-size": 50},
        {**NETWORK, "participation": 3, "keep": 0.5},
        {
            **NETWORK,
            "participation": 4,
            "local-steps": 2,
            "layers": "opu2",
            "keep": 0.5,
            "pruning": "wanda",
            "calibrate-norm": 10.0,
            "calibrate-every": 5,
        },
    ],
    ids=[
        *("topk", "randk", "scafflix", "fedavg", "flix", "localgd", "sppm", "fedp3", "fedp3-part"),
        "fedp3-told",
    ],
)
def test_planned_releases_are_those_that_are_made(config, tmp_path, options):
    """Epsilon is that of the plan exactly: nobody goes over it, and the worst client gets there."""
    made = config(**options)
    method = method_of(made, load_problem(made.problem))
    summary = run(made)
    assert summary.status == "done"
    assert 0.99 * 4.0 < summary.privacy["epsilon_max"] <= 4.0
    privacy = method.privacy
    expected = []
    for count, rows in zip(method.releases(), method.problem.shards, strict=True):
        rate = privacy.mechanism.sample_rate(len(rows))
        one = Ledger()
        if count:
            one = one.charge(
                noise_multiplier=privacy.noise_multiplier, sample_rate=rate, steps=count
            )
        expected.append(one.epsilon(1e-5))
    history = read_history(tmp_path / "run" / "history.jsonl")
    assert history[-1]["epsilon_max"] == max(expected)
    assert history[-1]["epsilon_mean"] == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_messages_give_the_same_history(config, tmp_path):
    histories = []
    for fast in ("require", "never"):
        run(config(compressor="top-k:k=20", fast=fast))
        records = read_history(tmp_path / "run" / "history.jsonl")
        histories.append([{**record, "seconds": 0} for record in records])
    assert histories[0] == histories[1]


def test_without_noise_and_clipping_nothing_changes(config, tmp_path):
    options = {"epsilon": "", "clip-rows": "", "stepsize": 0.5, "compressor": "top-k:k=20"}
    summary = run(config(**options, noise_multiplier=0.0, max_grad_norm=1e9))
    private = load_file(tmp_path / "run" / "model.safetensors")
    assert "epsilon_max" not in summary.privacy, "infinite, and JSON has no infinity"
    run(config(**options, max_grad_norm=""))
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        assert torch.equal(private[name], value)


def test_a_noise_multiplier_reports_its_epsilon(config):
    found = {}
    for noise in (5.0, 10.0):
        summary = run(config(epsilon="", noise_multiplier=noise))
        assert summary.privacy["noise_multiplier"] == noise
        found[noise] = summary.privacy["epsilon_max"]
    assert found[5.0] > 2 * found[10.0] > 0
    tighter = run(config(epsilon="", noise_multiplier=5.0, accountant="prv"))
    assert tighter.privacy["epsilon_max"] < found[5.0]


def test_constants_follow_from_the_clipping_norm_alone(config):
    made = config(clip_rows=0.5)
    problem = load_problem(made.problem)
    assert problem.smoothness == clipped_logistic_smoothness(6, max_row_norm=0.5, l2=0.001)
    assert float(problem.features.norm(dim=1).max()) <= 0.5 * (1 + 1e-12)
    given = config(clip_rows="", stepsize=0.3)
    strategy = method_of(given, load_problem(given.problem)).strategy()
    assert strategy.smoothness is None, "no constant of private rows steers anything"


def test_it_is_said_that_the_noise_is_simulated(config, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="flwr"):
        run(config())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "outside of epsilon" in summary["privacy"]["simulated"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"epsilon": ""}, "max-grad-norm: give --epsilon or --noise-multiplier"),
        ({"max_grad_norm": ""}, "max-grad-norm: privacy needs the norm"),
        ({"noise_multiplier": 1.0}, "noise-multiplier: --epsilon is given too"),
        ({"delta": 1.0}, "delta: 1.0 is not below 1"),
        ({"clip_rows": ""}, "stepsize: the theory's constants would be computed from private"),
        ({"target_gap": 0.1}, "target-gap: when the run ends would follow from private losses"),
        ({"target_accuracy": 0.9}, "target-accuracy: when the run ends would follow"),
        ({"epsilon": 1e-9, "batch-size": 10}, "privacy: "),
        ({"batch_size": 10**6}, "privacy: expected_batch_size 1000000 exceeds a client's"),
        ({"algorithm": "scafflix", "alpha": 0.5}, "alpha: below 1 each client's x_i"),
        ({"algorithm": "flix"}, "alpha: below 1 each client's x_i"),
        ({"algorithm": "sppm"}, "solver: lbfgs infers curvature"),
        (
            {"algorithm": "sppm", "solver": "gd", "clip-rows": ""},
            "solver: the step of gd would follow from private rows",
        ),
        (
            {
                "algorithm": "sppm",
                "solver": "gd",
                "sampling": "stratified",
                "cohort-size": 2,
                "strata": "features",
            },
            "strata: features looks at private rows",
        ),
        (
            {
                "algorithm": "localgd",
                "sampling": "nonuniform",
                "probabilities": "variance",
            },
            "probabilities: variance follows from private rows",
        ),
        ({**NETWORK, "personal-head": 1}, "personal-head: it is trained on private rows"),
        ({**NETWORK, "trained": "all"}, "trained: a private client trains what it releases"),
        ({**NETWORK, "clip-rows": 1.0}, "clip-rows: no constants of mlp follow from it"),
    ],
)
def test_what_would_leak_or_cannot_be_is_refused(config, tmp_path, options, why):
    with pytest.raises(ConfigError, match=why) as found:
        run(config(**options))
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()
