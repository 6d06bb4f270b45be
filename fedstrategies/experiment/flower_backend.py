"""Running inside Flower's simulation runtime: Ray virtual clients, one process pool.

The runtime runs the ServerApp in a thread of this process and returns nothing, so the result
and any exception leave the thread by closure.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fedstrategies.experiment.options import ConfigError
from fedstrategies.extras import install_hint

if TYPE_CHECKING:
    from flwr.app import ConfigRecordValues, Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

    BackendConfig = dict[str, dict[str, ConfigRecordValues]]

__all__ = ["require_ray", "run_in_simulation", "set_environment"]

_T = TypeVar("_T")

_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def set_environment() -> None:
    """Keep Flower and Ray from calling home, unless the user's environment says otherwise."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run_in_simulation(
    body: Callable[[Grid], _T],
    client_app: ClientApp,
    *,
    clients: int,
    cpus_per_client: float,
    gpus_per_client: float,
) -> _T:
    """``body(grid)`` as the ServerApp of a simulation with ``clients`` virtual clients.

    Parameters
    ----------
    body : callable
        What the server does; runs in another thread of this process.
    client_app : ClientApp
        What each virtual client runs.
    clients : int
        Number of virtual clients.
    cpus_per_client, gpus_per_client : float
        Ray resources of a virtual client while it works. It has a thread for each whole CPU; with
        more than one, the last bits of its sums may depend on their number.

    Raises
    ------
    BaseException
        Whatever ``body`` raised.
    """
    set_environment()
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    results: list[_T] = []
    errors: list[BaseException] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            results.append(body(grid))
        except BaseException as error:
            errors.append(error)

    backend_config: BackendConfig = {
        "client_resources": {
            "num_cpus": _whole(cpus_per_client),
            "num_gpus": _whole(gpus_per_client),
            # Flower hands these to Ray as an actor's options. By Ray's default a worker that dies
            # is not started again; Flower keeps it, and it fails most messages of all later rounds.
            "max_restarts": -1,
        },
        "init_args": {"logging_level": logging.ERROR, "log_to_driver": False},
    }
    with _without_deprecation_notice(), _threads_of_actors(max(1, int(cpus_per_client))):
        try:
            run_simulation(
                server_app=server_app,
                client_app=client_app,
                num_supernodes=clients,
                backend_config=backend_config,
            )
        except Exception as error:
            # The cause is what happened on our side of the runtime, where something did.
            if not errors:
                raise
            raise errors[0] from error
    if errors:
        raise errors[0]
    if not results:
        raise RuntimeError("Flower's simulation runtime ended without running the server")
    return results[0]


@contextmanager
def _threads_of_actors(number: int) -> Iterator[None]:
    """Give the actors that start meanwhile so many threads, a core each.

    They inherit this process's environment. Ray sets OMP_NUM_THREADS for them only if nobody
    else has, and Flower sets nothing: two actors with a pool of all cores each stall one another.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(number)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _whole(amount: float) -> int | float:
    """Ray insists on integers above 1."""
    return int(amount) if amount.is_integer() else amount


def require_ray() -> None:
    """Refuse to go on without Ray.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ConfigError(f"backend flower: Ray is missing; {install_hint('simulation')}") from None


class _NoDeprecationNotice(logging.Filter):
    """Drops the advice to use ``flwr run``, which cannot run a function of this process."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "DEPRECATED FEATURE" not in message or "run_simulation" not in message


@contextmanager
def _without_deprecation_notice() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    notice = _NoDeprecationNotice()
    logger.addFilter(notice)
    try:
        yield
    finally:
        logger.removeFilter(notice)
