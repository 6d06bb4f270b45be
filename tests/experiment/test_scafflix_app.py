"""The Flower app of Scafflix, on the in-process grid in place of Flower's runtime."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from fedstrategies.engines import CohortGrid
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.scafflix_config import ScafflixConfig
from fedstrategies.experiment.views import app_defaults, read_toml

APP = Path(__file__).parents[2] / "simulations" / "scafflix"
TABLE = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
CONVEX = sorted((APP / "conf" / "convex").glob("*.toml"))
NETWORKS = sorted((APP / "conf" / "networks").glob("*.toml"))


@pytest.fixture
def apps(monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    return (
        import_module("scafflix_app.server_app").app,
        import_module("scafflix_app.client_app").app,
    )


@pytest.fixture
def run_config(libsvm_file, tmp_path):
    return {
        **TABLE,
        "dataset": str(libsvm_file),
        "test-fraction": 0.2,
        "clients": 4,
        "rounds": 5,
        "alpha": "0.9,0.3,0.3,0",
        "local-steps": 3,
        "save-personal": True,
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


def without_seconds(folder):
    return [{**record, "seconds": None} for record in read_history(folder / "history.jsonl")]


@pytest.mark.parametrize("algorithm", ["scafflix", "scaffnew", "i-scaffnew", "flix", "fedavg"])
def test_a_run_is_that_of_the_command_line(apps, run_config, tmp_path, algorithm):
    if algorithm not in ("scafflix", "flix"):
        run_config["alpha"] = ""
    if algorithm == "flix":
        run_config["local-steps"] = ""
    run_config["algorithm"] = algorithm
    start(apps, run_config)
    assert Summary.read(tmp_path / "out").status == "done"
    config = config_from_mapping({**run_config, "output-dir": str(tmp_path / "cli")}, app=True)
    run(config)
    assert without_seconds(tmp_path / "out") == without_seconds(tmp_path / "cli")


def test_every_clients_model_is_written(apps, run_config, tmp_path):
    start(apps, run_config)
    files = sorted((tmp_path / "out" / "personal").iterdir())
    models = [load_file(path)["weight"] for path in files]
    assert len(models) == 4
    assert all(not models[0].equal(other) for other in models[1:])


def test_a_run_that_diverges_fails(apps, run_config, tmp_path):
    with pytest.raises(RuntimeError, match="round"):
        start(apps, {**run_config, "stepsize": 1e6, "rounds": 50})
    assert Summary.read(tmp_path / "out").status == "diverged"


def test_the_output_folder_must_be_said(apps, run_config):
    with pytest.raises(ConfigError, match="output-dir"):
        start(apps, {**run_config, "output-dir": ""})


def test_the_number_of_nodes_must_be_that_of_clients(apps, run_config):
    with pytest.raises(Exception, match="4"):
        start(apps, run_config, nodes=3)


def test_the_apps_defaults_are_the_dataclass():
    assert app_defaults(ScafflixConfig) == TABLE
    assert config_from_mapping(TABLE, app=True) == ScafflixConfig()


@pytest.mark.parametrize("path", [*CONVEX, *NETWORKS], ids=lambda path: path.stem)
def test_experiment_files_are_valid_in_both_views(path):
    values = tomllib.loads(path.read_text())
    assert set(values) <= set(TABLE)
    config = read_toml(path)
    assert config == config_from_mapping(values, app=True)
    assert config.algorithm == path.stem.rpartition("-")[2]


def test_convex_experiments_differ_in_what_their_names_say():
    found = {path.stem: read_toml(path) for path in CONVEX}
    assert len(found) == 3 * 5 * 2
    assert len({config.problem for config in found.values()}) == 1
    for name, config in found.items():
        _, alpha, _ = name.split("-", 2)
        assert set(config.alphas) == {float(alpha.removeprefix("alpha"))}
        assert (config.clients, config.l2, config.fstar) == (8, 0.1, "solve")


@pytest.mark.parametrize("size", ["short", "full"])
@pytest.mark.parametrize("dataset", ["shakespeare", "fashion-mnist"])
def test_the_methods_on_networks_have_the_same_problem_and_budget(dataset, size):
    shared = [
        read_toml(APP / "conf" / "networks" / f"{dataset}-{size}-{name}.toml")
        for name in ("scafflix", "flix", "fedavg")
    ]
    first, second, third = shared
    assert first.problem == second.problem == third.problem
    assert first.cohort_size == second.cohort_size == third.cohort_size
    assert first.rounds == second.rounds == third.rounds
    assert first.local_steps == third.local_steps
    # The same x_i*, or alpha would not mean the same.
    assert (first.local_epochs, first.local_stepsize) == (
        second.local_epochs,
        second.local_stepsize,
    )
