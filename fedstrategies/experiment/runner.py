"""Running an experiment on a backend: prepare, claim a folder, run, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fedstrategies.experiment.clients import client_fn_of
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.memory import warn_of_memory
from fedstrategies.experiment.flower_backend import (
    require_ray,
    run_in_simulation,
    set_environment,
)
from fedstrategies.experiment.free_memory import available_memory
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.progress import Observer
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.session import Session
from fedstrategies.flower.app import client_app
from fedstrategies.flower.sessions import BatchingGrid
from fedstrategies.flower.state_store import DirectoryStore

if TYPE_CHECKING:
    from flwr.app import ArrayRecord
    from flwr.serverapp import Grid

__all__ = ["run", "run_on_grid"]


def run(
    config: ExperimentConfig, *, observers: Sequence[Observer] = (), picture: bool = True
) -> Summary:
    """Run an experiment on its backend and write its folder.

    Parameters
    ----------
    config : ExperimentConfig
        The experiment.
    observers : sequence of callable
        Called with each history record; one that returns True stops the run.
    picture : bool
        Whether to draw curve.png, which takes longer than many a run.

    Returns
    -------
    Summary
        Also where the run diverged or every client of a round failed: see ``status``.

    Raises
    ------
    ConfigError, DataError
        For wrong input; nothing was written.
    """
    set_environment()
    if config.backend == "flower":
        require_ray()
    free = available_memory()
    prepared = prepare(config)
    warn_of_memory(prepared, free)
    store = None if prepared.config.state_dir is None else DirectoryStore(prepared.config.state_dir)
    app = client_app(client_fn_of(prepared.config), store=store)
    if config.backend == "ray":
        from fedstrategies.experiment.ray_backend import ray_grid

        with ray_grid(prepared.config, app) as grid:
            on_ray = Session(prepared, observers, picture=picture)
            return on_ray.guarded(lambda: on_ray.run_on(grid))
    session = Session(prepared, observers, picture=picture)
    if config.backend == "flower":
        return session.guarded(
            lambda: run_in_simulation(
                partial(_run_and_tidy, session, store),
                app,
                clients=config.clients,
                cpus_per_client=float(config.cpus_per_client),
                gpus_per_client=float(config.gpus_per_client),
            )
        )
    return session.guarded(lambda: session.run_in_process(app))


def _run_and_tidy(session: Session, store: DirectoryStore | None, grid: Grid) -> ArrayRecord:
    """All rounds on Flower's grid; what the clients kept on disk is of no use after them."""
    try:
        return session.run_on(grid)
    finally:
        if store is not None:
            store.forget(grid.run.run_id)


def run_on_grid(
    config: ExperimentConfig, grid: Grid, *, observers: Sequence[Observer] = ()
) -> Summary:
    """The same on a grid that exists already: what a ServerApp calls.

    Parameters
    ----------
    config : ExperimentConfig
        The experiment.
    grid : Grid
        Where its clients are; as many nodes as ``config.clients``.
    observers : sequence of callable
        Called with each record; one that returns True stops the run.

    Raises
    ------
    ConfigError, DataError
        For wrong input; nothing was written.
    """
    if not isinstance(grid, BatchingGrid):
        config = replace(config, backend="flower")  # what the files shall say
    session = Session(prepare(config), observers)
    return session.guarded(lambda: session.run_on(grid))
