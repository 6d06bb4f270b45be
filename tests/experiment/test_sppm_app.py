"""The Flower app of SPPM-AS, on the in-process grid in place of Flower's runtime."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fedstrategies.engines import CohortGrid
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.sppm_config import SPPMConfig
from fedstrategies.experiment.views import app_defaults, read_toml

APP = Path(__file__).parents[2] / "simulations" / "sppm"
TABLE = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
CONVEX = sorted((APP / "conf" / "convex").glob("*.toml"))
NETWORKS = sorted((APP / "conf" / "networks").glob("*.toml"))


@pytest.fixture
def apps(monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    return import_module("sppm_app.server_app").app, import_module("sppm_app.client_app").app


@pytest.mark.parametrize("algorithm", ["sppm", "localgd", "fedprox"])
def test_a_run_is_that_of_the_command_line(apps, libsvm_file, tmp_path, algorithm):
    run_config = {
        **TABLE,
        "algorithm": algorithm,
        "dataset": str(libsvm_file),
        "clients": 4,
        "rounds": 9,
        "sampling": "stratified",
        "cohort-size": 2,
        "cost-outer": 0.5,
        "output-dir": str(tmp_path / "out"),
        "quiet": True,
    }
    if algorithm == "sppm":
        run_config["inner-rounds"] = 3
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
    assert histories[0][-1]["outer_round"] == (3 if algorithm == "sppm" else 9)


def test_the_apps_defaults_are_the_dataclass():
    assert app_defaults(SPPMConfig) == TABLE
    assert config_from_mapping(TABLE, app=True) == SPPMConfig()


@pytest.mark.parametrize("path", [*CONVEX, *NETWORKS], ids=lambda path: path.stem)
def test_experiment_files_are_valid_in_both_views(path):
    values = tomllib.loads(path.read_text())
    assert set(values) <= set(TABLE)
    config = read_toml(path)
    assert config == config_from_mapping(values, app=True)
    assert config.algorithm in path.stem.split("-")


def test_convex_experiments_have_one_problem():
    configs = [read_toml(path) for path in CONVEX]
    assert len(configs) == 3 * 6
    assert len({config.problem for config in configs}) == 1


@pytest.mark.parametrize("size", ["short", "full"])
def test_the_methods_on_networks_have_the_same_problem_and_budget(size):
    names = ("sppm", "localgd", "fedprox")
    found = [read_toml(APP / "conf" / "networks" / f"fashion-mnist-{size}-{n}.toml") for n in names]
    assert len({config.problem for config in found}) == 1
    assert len({(config.cohort_size, config.rounds) for config in found}) == 1
