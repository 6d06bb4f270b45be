"""FedP3 as an experiment: options, what is recorded, wrong input."""

import struct
from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file

from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.methods import method_of
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.runner import run
from fedstrategies.fedp3 import expected_bytes, uplink_fraction


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


@pytest.fixture
def images(tmp_path):
    """A folder of 16 x 16 images in IDX files: the smallest that LeNet takes."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    pixels = torch.randint(0, 120, (120, 16, 16), generator=draw) + 40 * labels.view(-1, 1, 1) % 120
    folder = tmp_path / "images"
    folder.mkdir()
    for kind, magic, values in (
        ("images-idx3", 2051, pixels),
        ("labels-idx1", 2049, labels),
    ):
        head = struct.pack(f">{1 + values.ndim}I", magic, *values.shape)
        body = values.to(torch.uint8).numpy().tobytes()
        (folder / f"train-{kind}-ubyte").write_bytes(head + body)
    return folder


SETTINGS = {
    "plain": {},
    "lowerb": {"layers": "lowerb"},
    "opu2": {"layers": "opu2"},
    "opu2, keep 0.5": {"layers": "opu2", "keep": 0.5},
    "opu2, keep by client": {"layers": "opu2", "keep": "0.1,0.2,0.3,0.4,0.5,0.6"},
    "opu2, wanda": {"layers": "opu2", "keep": 0.5, "pruning": "wanda"},
    "opu2, wanda, later": {
        "layers": "opu2",
        "keep": 0.5,
        "pruning": "wanda",
        "calibrate-every": 2,
    },
    "opu2, symwanda": {"layers": "opu2", "keep": 0.5, "pruning": "symwanda"},
    "opu2, output-wanda": {"layers": "opu2", "keep": 0.5, "pruning": "output-wanda"},
    "opu2, ria": {"layers": "opu2", "keep": 0.5, "pruning": "ria"},
    "opu2, stochria": {"layers": "opu2", "keep": 0.5, "pruning": "stochria"},
    "opu2, ordered": {"layers": "opu2", "keep": 0.5, "pruning": "ordered"},
    "capacity": {"layers": "capacity:1200,1500,2000,3000,5000,9000"},
    "assigned": {"layers": "opu2", "trained": "assigned"},
    "weighted": {"layers": "opu123", "aggregation": "weighted"},
    "simple": {"layers": "opu123"},
    "attention": {"layers": "opu123", "aggregation": "attention:temperature=0.01"},
    "uniform": {"local-pruning": "uniform:q=0.5"},
    "dropout": {"local-pruning": "ordered:q=0.5"},
    "clipped": {"clip-gradient": 0.01},
    "more steps": {"local_steps": 3},
}


def test_every_option_has_its_effect(config, images, tmp_path):
    """On a network with four shared layers: no two settings give the same model."""
    models, bytes_of = {}, {}
    for name, options in SETTINGS.items():
        made = config(
            **{
                "dataset": str(images),
                "model": "lenet",
                "width": 6,
                "stepsize": 0.3,
                "local_steps": 2,
                **options,
            }
        )
        summary = run(made)
        models[name] = load_file(tmp_path / "run" / "model.safetensors")
        bytes_of[name] = (summary.last["uplink_bytes"], summary.last["downlink_bytes"])
        method = method_of(made, load_problem(made.problem))
        assert len(method.groups) == 5
        strategy = method.strategy()
        choice, law = strategy.layers, strategy.pruning
        formula = [0, 0]
        for round in range(1, 4):
            drawn = choice.draw(method.groups, clients=6, seed=0, round=round)
            one = expected_bytes(method.groups, drawn, pruning=law)
            formula = [formula[0] + int(one.up.sum()), formula[1] + int(one.down.sum())]
            told = None if strategy.gathering is None else strategy.gathering.asked(round)
            formula[0] += 0 if told is None else 6 * 4 * told.dimension
        control = 3 * 6 * (64 + 200)
        assert formula[0] < bytes_of[name][0] <= formula[0] + control
        assert bytes_of[name][1] <= formula[1] + control
    for first, second in combinations(SETTINGS, 2):
        same = [torch.equal(models[first][key], models[second][key]) for key in models[first]]
        assert not all(same), f"{first} and {second} give the same model"
    assert bytes_of["lowerb"] < bytes_of["opu2"] < bytes_of["plain"]
    assert bytes_of["opu2, keep 0.5"][1] < bytes_of["opu2"][1]


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
    strategy = method.strategy()
    strategy.prepare(problem.start_point)
    strategy.begin(0)
    tuned = [strategy.evaluation_constants(client) for client in range(6)]
    assert tuned == [(float(3 * -(-count // 32)), 0.1) for count in rows]
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
        ({"keep": "nan"}, "keep: 'nan' is not a number, nor one per client"),
        ({"local_pruning": "uniform"}, "local-pruning: 'uniform': uniform needs q"),
        ({"aggregation": "median"}, "aggregation: 'median': the aggregations are simple"),
        ({"local_steps": 2, "local_epochs": 1}, "local-epochs: local-steps is given too"),
        ({"prox": "l1:0.1"}, "prox: fedp3 has no regulariser"),
        ({"stepsize": "theory"}, "stepsize: the theory needs L"),
        ({"trained": "some"}, "trained: 'some' is not one of all, assigned"),
        ({"personal_head": 1, "stepsize": "theory", "smoothness": "L=1,L_tilde=1"}, "personal-he"),
        ({"alpha": 0.5}, "alpha: fedp3 has no such option"),
        ({"pruning": "best"}, "pruning: 'best' is not one of magnitude"),
        ({"pruning": "wanda", "calibrate_every": 0}, "calibrate-every: 0 is"),
        ({"pruning": "ri", "calibrate_every": 2}, "calibrate-every: pruning by ri needs no acti"),
        ({"pruning": "ria", "calibrate_norm": 2.0}, "calibrate-norm: it bounds examples where"),
        ({"pruning": "ria", "keep": 0.5}, "fedp3: pruning by ria.*: nothing is pruned"),
        ({"pruning": "ria", "layers": "opu2"}, "fedp3: pruning by ria.*: nothing is pruned"),
        ({"calibrate_norm": 2.0}, "calibrate-norm: pruning by magnitude needs no activations"),
        ({"pruning": "ria", "max_update_norm": 1.0}, "max-update-norm: it bounds moves of"),
        ({"pruning": "wanda", "epsilon": 4.0, "max_grad_norm": 1.0}, "calibrate-norm: is missing"),
        (
            {"pruning": "wanda", "model": "linear", "width": "", "layers": "opu2", "keep": 0.5},
            "fedp3: the model has no linear layer or convolution beside its classifier",
        ),
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
