"""The clients of an experiment as functions that a Flower ClientApp can be built from.

They are importable and hold no data: Ray ships the app with every task, and what a closure holds
travels along. Each process loads the data set once and keeps it.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.method import Method
from fedstrategies.experiment.methods import method_of
from fedstrategies.experiment.options import ConfigError, Scalar
from fedstrategies.experiment.problem import load_problem

if TYPE_CHECKING:
    from flwr.app import Context

    from fedstrategies.flower import BaseClient
    from fedstrategies.flower.app import ClientFn

__all__ = ["client_fn_of", "client_from_run_config"]


def client_fn_of(config: ExperimentConfig) -> ClientFn:
    """The ``client_fn`` of an experiment; it pickles as its configuration, a few hundred bytes."""
    return partial(_client, config)


def client_from_run_config(context: Context) -> BaseClient:
    """The client of an experiment that the run configuration describes.

    Raises
    ------
    ConfigError
        If the run configuration is wrong, or ``clients`` is not the number of nodes.
    """
    config = _parse(tuple(sorted(context.run_config.items())))
    nodes = context.node_config.get("num-partitions", config.clients)
    if nodes != config.clients:
        raise ConfigError(f"clients: {config.clients} configured, but {nodes} nodes were started")
    return _client(config, context)


@lru_cache(maxsize=8)
def _parse(run_config: tuple[tuple[str, Scalar], ...]) -> ExperimentConfig:
    return config_from_mapping(dict(run_config), app=True)


def _client(config: ExperimentConfig, context: Context) -> BaseClient:
    return _method(config).client(context)


@lru_cache(maxsize=8)
def _method(config: ExperimentConfig) -> Method:
    """Built once in a process, not for every client."""
    return method_of(config, load_problem(config.problem))
