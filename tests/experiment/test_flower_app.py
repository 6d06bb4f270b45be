"""The Flower app of the simulations, on the in-process grid in place of Flower's runtime."""

import pickle
import tomllib
from importlib import import_module
from pathlib import Path

import cloudpickle
import pytest
from flwr.app import Context, RecordDict

from fedstrategies.engines import CohortGrid
from fedstrategies.experiment.clients import client_fn_of
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import Summary
from fedstrategies.flower.app import client_app

APP = Path(__file__).parents[2] / "simulations" / "efbv"


@pytest.fixture
def apps(monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    return import_module("efbv_app.server_app").app, import_module("efbv_app.client_app").app


@pytest.fixture
def run_config(libsvm_file, tmp_path):
    table = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return {
        **table,
        "dataset": str(libsvm_file),
        "clients": 4,
        "rounds": 5,
        "compressor": "top-k:k=2",
        "output-dir": str(tmp_path / "out"),
        "quiet": True,
    }


def start(apps, run_config, nodes=4):
    server_app, clients_app = apps
    grid = CohortGrid(clients_app, num_clients=nodes, run_config=run_config)
    server_app(
        grid,
        Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config),
    )


def test_a_run(apps, run_config, tmp_path):
    start(apps, run_config)
    assert Summary.read(tmp_path / "out").status == "done"
    assert len(read_history(tmp_path / "out" / "history.jsonl")) == 6


def test_a_run_that_diverges_fails(apps, run_config, tmp_path):
    with pytest.raises(RuntimeError, match="round 1"):
        start(apps, {**run_config, "stepsize": 1e6})
    assert Summary.read(tmp_path / "out").status == "diverged"


def test_the_output_folder_must_be_said(apps, run_config):
    with pytest.raises(ConfigError, match="output-dir"):
        start(apps, {**run_config, "output-dir": ""})


def test_the_number_of_nodes_must_be_that_of_clients(apps, run_config):
    with pytest.raises(Exception, match="4"):
        start(apps, run_config, nodes=3)


def test_the_app_carries_no_data(libsvm_file):
    config = EFBVConfig(dataset=str(libsvm_file), clients=4)
    app = client_app(client_fn_of(config))
    CohortGrid(app, num_clients=4).objective  # noqa: B018 - loads the data set
    assert len(cloudpickle.dumps(app)) < 8_000
    assert pickle.loads(pickle.dumps(app.client_fn)).args == (config,)
