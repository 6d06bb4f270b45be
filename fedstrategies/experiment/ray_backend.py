"""An experiment's clients in Ray actors, whose grid is closed by whoever opened it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from fedstrategies.engines import RayGrid
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.resources import parse_amounts

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

__all__ = ["ray_grid"]


def ray_grid(config: ExperimentConfig, app: ClientApp) -> RayGrid:
    """The grid of an experiment; a context manager.

    Raises
    ------
    ConfigError
        If Ray is missing, cannot be reached, or has not room for the actors, or if one of them
        does not start.
    """
    try:
        return RayGrid(
            app,
            num_clients=config.clients,
            actors=config.actors,
            cpus_per_client=parse_amounts(config.cpus_per_client, where="cpus-per-client"),
            gpus_per_client=parse_amounts(config.gpus_per_client, where="gpus-per-client"),
            address=config.ray_address,
            fast=cast(Literal["auto", "never", "require"], config.fast),
        )
    except (ImportError, ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"backend ray: {error}") from None
