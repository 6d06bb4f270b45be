"""Flower's simulation runtime with two Ray actors of one core each, the same for all who use it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import TypeVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from benchmarks.simulation.task import CLIENTS

__all__ = ["ACTORS", "simulate"]

ACTORS = 2

_T = TypeVar("_T")


def simulate(body: Callable[[Grid], _T], client_app: ClientApp) -> _T:
    """``body(grid)`` as the server of a simulation; what it returns.

    Raises
    ------
    RuntimeError
        If the server did not come to an end; the runtime has logged why.
    """
    from flwr.simulation import run_simulation

    results: list[_T] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(body(grid))

    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    run_simulation(
        server_app=server,
        client_app=client_app,
        num_supernodes=CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "num_cpus": ACTORS,
                "logging_level": logging.ERROR,
                "log_to_driver": False,
            },
        },
    )
    if not results:
        raise RuntimeError("Flower's simulation ended before its server had")
    return results[0]
