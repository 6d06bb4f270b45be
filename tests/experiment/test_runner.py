import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedstrategies.data import DataError
from fedstrategies.engines import CohortGrid
from fedstrategies.experiment import runner
from fedstrategies.experiment.clients import client_fn_of
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.results import FILES, Summary
from fedstrategies.experiment.views import read_toml
from fedstrategies.flower.app import client_app


@pytest.fixture
def config(libsvm_file, tmp_path):
    return EFBVConfig(
        dataset=str(libsvm_file),
        clients=4,
        rounds=12,
        compressor="rand-k:k=2",
        fstar="solve",
        out=str(tmp_path / "out"),
    )


def without_seconds(directory):
    return [{**record, "seconds": None} for record in read_history(directory / "history.jsonl")]


def test_a_run_writes_its_folder(config, tmp_path, pictures):
    summary = runner.run(config)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert summary.status == "done"
    assert summary == Summary.read(out)
    assert read_toml(out / "config.toml") == config
    history = read_history(out / "history.jsonl")
    assert [record["round"] for record in history] == list(range(13))
    assert history[-1] == summary.last
    assert history[-1]["gap"] < history[0]["gap"]
    assert history[-1]["uplink_bytes"] > 0
    assert all(b["uplink_bytes"] > a["uplink_bytes"] for a, b in pairwise(history))
    model = load_file(out / "model.safetensors")
    assert sum(array.numel() for array in model.values()) == 6
    assert summary.stepsize == summary.theory["gamma"] > 0
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("algorithm", ["efbv", "ef21", "diana", "gd"])
def test_every_algorithm_descends(config, algorithm):
    compressor = None if algorithm == "gd" else config.compressor
    summary = runner.run(
        dataclasses.replace(config, algorithm=algorithm, compressor=compressor, rounds=60)
    )
    first, last = read_history_of(summary)[0], summary.last
    assert last["gap"] < 0.9 * first["gap"]


def read_history_of(summary):
    return read_history(Path(summary.out) / "history.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shift_init": "gradient"},
        {"participation": 2},
        {"batch_size": 3},
        {"prox": "l1:0.01"},
        {"algorithm": "ef21", "compressor": "top-k:k=2"},
    ],
)
def test_paths_and_repeats_give_the_same_history(config, tmp_path, change):
    outs = [tmp_path / name for name in ("first", "again", "messages")]
    for out, fast in zip(outs, ("require", "require", "never"), strict=True):
        runner.run(dataclasses.replace(config, out=str(out), fast=fast, **change))
    first, again, messages = map(without_seconds, outs)
    assert first == again
    assert first == messages


def test_running_on_a_grid_of_the_callers(config, tmp_path):
    grid = CohortGrid(client_app(client_fn_of(config)), num_clients=4)
    elsewhere = dataclasses.replace(config, out=str(tmp_path / "grid"))
    assert runner.run_on_grid(elsewhere, grid).status == "done"
    runner.run(config)
    assert without_seconds(tmp_path / "grid") == without_seconds(tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"compressor": "top-k:k=7"},
        {"algorithm": "diana", "compressor": "top-k:k=2"},
        {"clients": 41},
        {"dataset": "nowhere"},
        {"algorithm": "gd", "compressor": None, "participation": 2},
    ],
)
def test_wrong_input_writes_nothing(config, tmp_path, change):
    with pytest.raises((ConfigError, DataError)) as caught:
        runner.run(dataclasses.replace(config, **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused_untouched(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "history.jsonl").write_text("precious")
    with pytest.raises(ConfigError, match="--overwrite"):
        runner.run(config)
    assert (tmp_path / "out" / "history.jsonl").read_text() == "precious"
    assert runner.run(dataclasses.replace(config, overwrite=True)).status == "done"


def test_a_diverging_step_keeps_its_records(config, tmp_path):
    summary = runner.run(dataclasses.replace(config, stepsize=1e6))
    assert summary.status == "diverged"
    assert "round 1" in summary.error
    out = tmp_path / "out"
    assert Summary.read(out).status == "diverged"
    assert read_history(out / "history.jsonl")[-1]["round"] == 1
    assert (out / "config.toml").exists()


def test_an_interruption_keeps_the_records(config, tmp_path):
    def interrupt(record):
        if record["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(config, observers=[interrupt])
    summary = Summary.read(tmp_path / "out")
    assert summary.status == "interrupted"
    assert summary.last["round"] == 3
    assert len(read_history(tmp_path / "out" / "history.jsonl")) == 4


def test_an_unexpected_error_is_recorded_and_raised(config, tmp_path):
    def fail(record):
        raise ZeroDivisionError("observer")

    with pytest.raises(ZeroDivisionError):
        runner.run(config, observers=[fail])
    summary = Summary.read(tmp_path / "out")
    assert summary.status == "failed"
    assert "observer" in summary.error


def test_a_target_stops_the_run_and_says_its_cost(config):
    gap = 0.5 * read_history_of(runner.run(config))[0]["gap"]
    summary = runner.run(
        dataclasses.replace(config, rounds=2000, target_gap=gap, overwrite=True, cost_outer=2)
    )
    reached = summary.reached["target-gap"]
    assert 0 < reached["round"] < 2000
    assert reached["cost"] == 3 * reached["round"]
    assert summary.last == reached


def test_given_steps_and_constants(config):
    relative = prepare(dataclasses.replace(config, stepsize="theory*4"))
    assert relative.stepsize == 4 * relative.theory["gamma"]
    assert prepare(dataclasses.replace(config, stepsize=0.125)).stepsize == 0.125
    halved = prepare(dataclasses.replace(config, smoothness="L=1,L_tilde=1"))
    doubled = prepare(dataclasses.replace(config, smoothness="L=2,L_tilde=2"))
    assert halved.theory["gamma"] == pytest.approx(2 * doubled.theory["gamma"])


def test_reference_step_of_ef21():
    prepared = prepare(
        EFBVConfig(
            algorithm="ef21",
            compressor="top-k:k=5",
            smoothness="L=2.6862142339,L_tilde=3.3938773746",
        )
    )
    assert prepared.stepsize == pytest.approx(3.39110351e-3, abs=1e-11)


def test_history_holds_plain_json(config, tmp_path):
    runner.run(config)
    for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=pytest.fail)
        assert all(isinstance(value, int | float) for value in record.values())
