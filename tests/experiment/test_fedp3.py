"""FedP3 as an experiment: options, what is recorded, wrong input."""

import pytest
import torch
from safetensors.torch import load_file

from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.methods import method_of
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.runner import run
from fedstrategies.fedp3 import uplink_fraction


@pytest.fixture
def config(tmp_path):
    def make(**options):
        values = {
            "algorithm": "fedp3",
            "dataset": "digits",
            "model": "mlp",
            "l2": 0.0,
            "stepsize": 0.1,
            "clients": 6,
            "width": 8,
            "rounds": 3,
            "batch-size": 32,
            "test-fraction": 0.3,
            "accuracy-every": 1,
            "out": str(tmp_path / "run"),
            "overwrite": True,
            "quiet": True,
            **{key.replace("_", "-"): value for key, value in options.items()},
        }
        return config_from_mapping(values)

    return make


def test_a_run_records_both_accuracies_and_the_bytes_of_the_layers(config, tmp_path):
    made = config(layers="lowerb", keep=0.5, local_epochs=2)
    summary = run(made)
    assert summary.status == "done"
    history = read_history(tmp_path / "run" / "history.jsonl")
    assert history[-1]["loss"] < history[0]["loss"]
    assert {"accuracy", "accuracy_personal", "accuracy_personal_std"} <= set(history[-1])
    groups = method_of(made, load_problem(made.problem)).groups
    assigned = torch.ones(6, 2, dtype=torch.bool)
    share = uplink_fraction(groups, assigned)
    assert share == 1.0, "one shared layer: everybody has it"
    assert history[-1]["uplink_bytes"] > 3 * 6 * 4 * summary.dimension
    assert history[-1]["uplink_bytes"] < 3 * 6 * (4 * summary.dimension + 64)


def test_without_pruning_it_is_fedavg(config, tmp_path):
    run(config(local_steps=3))
    mine = load_file(tmp_path / "run" / "model.safetensors")
    run(config(algorithm="fedavg", local_steps=3))
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        assert torch.equal(value, mine[name])


def test_epochs_are_steps_of_a_batch(config):
    made = config(local_epochs=2, partition="dirichlet:alpha=0.5", personal_head=3)
    problem = load_problem(made.problem)
    method = method_of(made, problem)
    rows = [len(shard) for shard in problem.shards]
    assert len(set(rows)) > 1
    assert method.local_steps == tuple(2 * -(-count // 32) for count in rows)
    assert method.head(0).steps == 3 * -(-rows[0] // 32)
    whole = method_of(config(local_epochs=2, batch_size=""), problem)
    assert whole.local_steps == (2,) * 6
    assert method_of(config(), problem).local_steps == (1,) * 6


def test_a_personal_head_counts_after_the_last_round(config, tmp_path):
    split = "classes:per_client=5,assignment=deterministic"
    run(config(personal_head=20, partition=split, rounds=2, local_epochs=1))
    history = read_history(tmp_path / "run" / "history.jsonl")
    assert history[1]["accuracy_personal"] == pytest.approx(history[1]["accuracy"], abs=0.1)
    assert history[2]["accuracy_personal"] > history[2]["accuracy"] + 0.1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"layers": "half"}, "layers: 'half': the choices of layers are all, lowerb"),
        ({"layers": "capacity:many"}, "layers: 'capacity:many': a capacity is a number of bytes"),
        ({"layers": "capacity:8"}, "fedp3: the classifier 'output' takes"),
        ({"layers": "capacity:5000,5000"}, "fedp3: 2 capacities for 6 clients"),
        ({"keep": 1.5}, "keep: 1.5 is outside"),
        ({"keep": "0.5,0.6"}, "keep: 2 shares for 6 clients"),
        ({"keep": "half"}, "keep: 'half' is not a number, nor one per client"),
        ({"local_pruning": "uniform"}, "local-pruning: 'uniform': uniform needs q"),
        ({"aggregation": "median"}, "aggregation: 'median': the aggregations are simple"),
        ({"local_steps": 2, "local_epochs": 1}, "local-epochs: local-steps is given too"),
        ({"prox": "l1:0.1"}, "prox: fedp3 has no regulariser"),
        ({"stepsize": "theory"}, "stepsize: the theory needs L"),
        ({"trained": "some"}, "trained: 'some' is not one of all, assigned"),
        ({"personal_head": 1, "stepsize": "theory", "smoothness": "L=1,L_tilde=1"}, "personal-he"),
        ({"alpha": 0.5}, "alpha: fedp3 has no such option"),
    ],
)
def test_wrong_input_is_refused_in_one_line(config, tmp_path, options, why):
    with pytest.raises(ConfigError, match=why) as found:
        run(config(**options))
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_every_setting_runs(config, tmp_path):
    for options in (
        {"layers": "opr2", "aggregation": "attention:temperature=0.5"},
        {"layers": "capacity:3000", "keep": 0.3, "pruning": "ordered", "trained": "assigned"},
        {"keep": "0.1,0.2,0.3,0.4,0.5,0.6", "layers": "opu23", "aggregation": "weighted"},
        {"local_pruning": "ordered:q=0.5", "participation": 3, "clip_gradient": 1.0},
        {"dataset": "mushrooms", "model": "logreg", "width": "", "stepsize": "theory"},
        {"model": "linear", "width": "", "stepsize": "theory", "l2": 0.1},
    ):
        assert run(config(**options)).status == "done"
