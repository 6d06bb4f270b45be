import dataclasses

import pytest

from fedstrategies.data import BUNDLED, PARTITIONS
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.families import ALGORITHMS, config_from_mapping
from fedstrategies.experiment.model_facts import MODELS
from fedstrategies.experiment.options import ConfigError, options
from fedstrategies.experiment.problem_config import BUNDLED_DATASETS, ProblemConfig


def test_defaults_are_valid_for_every_algorithm():
    for algorithm in ALGORITHMS:
        assert ALGORITHMS[algorithm](algorithm=algorithm).algorithm == algorithm


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"clients": 0}, "clients"),
        ({"clients": 2.5}, "clients"),
        ({"clients": "many"}, "whole number"),
        ({"clients": True}, "clients"),
        ({"clients": ""}, "needed"),
        ({"overlap": 21}, "overlap"),
        ({"l2": -1}, "l2"),
        ({"l2": float("nan")}, "finite"),
        ({"test-fraction": 1.0}, "test-fraction"),
        ({"model": "resnet"}, "logreg"),
        ({"model": "cnn"}, "stepsize: the theory"),
        ({"model": "mlp"}, "stepsize: the theory"),
        ({"model": "mlp", "stepsize": "theory*2"}, "number"),
        ({"model": "mlp", "stepsize": 1, "smoothness": "L=1"}, "L_tilde"),
        ({"model": "mlp", "stepsize": 1, "fstar": "solve"}, "not convex"),
        ({"model": "mlp", "stepsize": 1, "target-gap": 0.1}, "target-gap"),
        ({"model": "mlp", "stepsize": 1, "x0": "zero"}, "hidden units"),
        ({"model": "mlp", "stepsize": 1, "x0": "normal:scale=0"}, "glorot"),
        ({"model": "mlp", "stepsize": 1, "width": 0}, "width"),
        ({"model": "linear", "width": 3}, "width: linear"),
        ({"x0": "glorot"}, "logreg"),
        ({"partition": "dirichlet"}, "alpha is missing"),
        ({"partition": "shuffled"}, "contiguous"),
        ({"prox": "l3:1"}, "prox"),
        ({"x0": "normal:location=1"}, "loc"),
        ({"x0": "normal:scale=-1"}, "negative"),
        ({"x0": "one"}, "x0"),
        ({"smoothness": "M=1"}, "smoothness"),
        ({"smoothness": "L=0"}, "positive"),
        ({"smoothness": "L=1,L=2"}, "smoothness"),
        ({"stepsize": "theory*"}, "stepsize"),
        ({"stepsize": "theory*x"}, "stepsize"),
        ({"stepsize": "theory*-1"}, "positive"),
        ({"stepsize": "fast"}, "stepsize"),
        ({"stepsize": 0}, "positive"),
        ({"rounds": 0}, "rounds"),
        ({"compressor": "top-j:k=1"}, "top-k"),
        ({"algorithm": "gd", "compressor": "top-k:k=1"}, "gd"),
        ({"algorithm": "ef21", "lambda": 0.5}, "lambda"),
        ({"algorithm": "diana", "nu": 0.5}, "nu"),
        ({"lambda": 1.5}, "lambda"),
        ({"lambda": 0}, "lambda"),
        ({"sampling": "nice"}, "cohort-size"),
        ({"cohort-size": 3}, "participation"),
        ({"participation": 3, "cohort-size": 4}, "disagree"),
        ({"participation": 21}, "21 of 20"),
        ({"target-accuracy": 1.5}, "target-accuracy"),
        ({"fstar": "guess"}, "fstar"),
        ({"algorithm": "scaffold"}, "efbv"),
        ({"learning-rate": 1}, "stepsize"),
        ({"shift_init": "zero"}, "shift-init"),
        ({"overwrite": "maybe"}, "true or false"),
        ({"aggregator": "mode"}, "aggregator: 'mode': the aggregators are median"),
        ({"aggregator": "krum:share=0.5"}, "aggregator: share = 0.5"),
    ],
)
def test_wrong_values_are_refused_in_one_line(values, word):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values)
    message = str(caught.value)
    assert word in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"actors": 2}, "--backend ray"),
        ({"ray_address": "auto", "backend": "flower"}, "--backend ray"),
        ({"state_dir": "states"}, "--backend flower"),
        ({"state_dir": "states", "backend": "ray"}, "--backend flower"),
    ],
)
def test_an_option_of_another_backend_is_refused(settings, word):
    with pytest.raises(ConfigError, match=word):
        EFBVConfig(**settings)


def test_participation_is_shorthand():
    short = EFBVConfig(participation=5)
    assert short == EFBVConfig(sampling="nice", cohort_size=5)
    assert short.participation is None


def test_resolved_values():
    config = EFBVConfig(target_gap=1e-3)
    assert (config.fstar, config.dtype, config.accuracy_every) == ("solve", "float64", 10)
    assert EFBVConfig(target_accuracy=0.9).accuracy_every == 1
    assert EFBVConfig(algorithm="gd").compressor == "identity"
    assert EFBVConfig(fstar="0.25").fstar == 0.25
    assert EFBVConfig(stepsize="1e-3").stepsize == 1e-3
    assert EFBVConfig(aggregator="krum").aggregator == "krum:share=0.2,selected=1"


@pytest.mark.parametrize(
    ("model", "resolved"),
    [
        ("logreg", ("float64", "zero", None)),
        ("linear", ("float32", "zero", None)),
        ("mlp", ("float32", "glorot", MODELS["mlp"].width)),
    ],
)
def test_defaults_that_follow_from_the_model(model, resolved):
    config = EFBVConfig(model=model, stepsize=0.1)
    assert (config.dtype, config.x0, config.width) == resolved
    other = EFBVConfig(model=model, stepsize=0.1, dtype="float64", x0="normal:loc=1")
    assert (other.dtype, other.x0) == ("float64", "normal:loc=1")


def test_resolving_is_idempotent():
    config = EFBVConfig(participation=4, target_gap=1e-3, stepsize="theory*4")
    assert dataclasses.replace(config) == config
    network = EFBVConfig(model="mlp", stepsize=0.1)
    assert dataclasses.replace(network) == network
    assert dataclasses.replace(config, out="somewhere").problem == config.problem


def test_dataset_paths_become_absolute_and_name_the_run():
    config = EFBVConfig(dataset="data/a9a.t.xz")
    assert config.dataset.startswith("/")
    assert config.dataset_name == "a9a"
    assert EFBVConfig().dataset == "mushrooms"


def test_problem_part_is_shared_by_all_algorithms_and_hashable():
    problems = {
        family(algorithm=name, rounds=i + 1).problem
        for i, (name, family) in enumerate(ALGORITHMS.items())
    }
    assert problems == {ProblemConfig()}
    assert EFBVConfig(clients=3).problem != ProblemConfig()


def test_names_repeated_here_are_those_of_the_data_room():
    assert BUNDLED_DATASETS == BUNDLED
    partition = next(entry for entry in options(EFBVConfig) if entry.name == "partition")
    assert all(name in partition.help for name in PARTITIONS)


def test_every_option_is_described_once():
    entries = options(EFBVConfig)
    assert {entry.name for entry in entries} == {f.name for f in dataclasses.fields(EFBVConfig)}
    assert len({entry.key for entry in entries}) == len(entries)
    assert all(entry.help and entry.group and "_" not in entry.key for entry in entries)
