"""The Flower app of FedP3, on the in-process grid in place of Flower's runtime."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fedstrategies.engines import CohortGrid
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.fedp3_config import FedP3Config
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.views import app_defaults, read_toml

APP = Path(__file__).parents[2] / "simulations" / "fedp3"
TABLE = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
FILES = sorted((APP / "conf").rglob("*.toml"))


@pytest.fixture
def apps(monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    return import_module("fedp3_app.server_app").app, import_module("fedp3_app.client_app").app


def test_a_run_is_that_of_the_command_line(apps, tmp_path):
    run_config = {
        **TABLE,
        "clients": 4,
        "dataset": "digits",
        "model": "mlp",
        "l2": 0.0,
        "stepsize": 0.1,
        "layers": "lowerb",
        "keep": 0.5,
        "width": 8,
        "rounds": 3,
        "batch-size": 32,
        "local-epochs": 1,
        "test-fraction": 0.3,
        "output-dir": str(tmp_path / "out"),
        "quiet": True,
    }
    server_app, clients_app = apps
    grid = CohortGrid(clients_app, num_clients=4, run_config=run_config)
    server_app(
        grid,
        Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config),
    )
    assert Summary.read(tmp_path / "out").status == "done"
    run(config_from_mapping({**run_config, "output-dir": str(tmp_path / "cli")}, app=True))
    histories = [
        [{**record, "seconds": None} for record in read_history(tmp_path / name / "history.jsonl")]
        for name in ("out", "cli")
    ]
    assert histories[0] == histories[1]


def test_the_apps_defaults_are_the_dataclass():
    assert app_defaults(FedP3Config) == TABLE
    assert config_from_mapping(TABLE, app=True) == FedP3Config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_experiment_files_are_valid_in_both_views(path):
    values = tomllib.loads(path.read_text())
    assert set(values) <= set(TABLE)
    assert read_toml(path) == config_from_mapping(values, app=True)


def test_the_methods_of_a_table_have_the_same_problem_and_budget():
    for data in ("fashion-mnist", "cifar10"):
        for size in ("short", "full"):
            for split in ("s1", "s2"):
                found = [read_toml(p) for p in FILES if p.match(f"{data}/{size}-{split}-*.toml")]
                assert len(found) == 7
                assert len({config.problem for config in found}) == 1
                assert len({(c.rounds, c.local_epochs, c.stepsize) for c in found}) == 1
