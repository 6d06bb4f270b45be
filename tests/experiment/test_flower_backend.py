import os
from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict

from fedstrategies.experiment import flower_backend
from fedstrategies.experiment.flower_backend import run_in_simulation, set_environment


def server_context(run_config=None):
    return Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config or {}
    )


@pytest.fixture
def runtime(monkeypatch):
    """Stands in for Flower's runtime: calls the ServerApp, as the runtime does in its thread."""
    calls = SimpleNamespace(keywords=None, swallow=False)

    def run_simulation(*, server_app, **keywords):
        calls.keywords = keywords
        if not calls.swallow:
            server_app("the grid", server_context())

    monkeypatch.setattr("flwr.simulation.run_simulation", run_simulation)
    return calls


def simulate(body):
    return run_in_simulation(body, "the app", clients=3, cpus_per_client=2.0, gpus_per_client=0.25)


def test_the_result_leaves_by_closure(runtime):
    assert simulate(lambda grid: f"result on {grid}") == "result on the grid"
    assert runtime.keywords["client_app"] == "the app"
    assert runtime.keywords["num_supernodes"] == 3
    resources = runtime.keywords["backend_config"]["client_resources"]
    assert resources == {"num_cpus": 2, "num_gpus": 0.25, "max_restarts": -1}
    assert isinstance(resources["num_cpus"], int)


def test_the_servers_error_is_raised_as_it_is(runtime):
    def body(grid):
        raise ZeroDivisionError("in the server")

    with pytest.raises(ZeroDivisionError, match="in the server"):
        simulate(body)


def test_a_server_that_never_ran_is_an_error(runtime):
    runtime.swallow = True
    with pytest.raises(RuntimeError, match="without running the server"):
        simulate(lambda grid: None)


def test_the_users_environment_wins(monkeypatch):
    for name in flower_backend._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    set_environment()
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    for name in flower_backend._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
