"""`RayGrid`: this suite on its own Ray actors."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.script import main
from benchmarks.simulation.suite import app, train
from benchmarks.simulation.task import CLIENTS, Schedule

__all__ = ["run"]


def run(name: str, schedule: Schedule, clock: Clock, *, actors: int) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`.

    Parameters
    ----------
    name, schedule, clock
        As for every system.
    actors : int
        Ray actors, each with a range of the clients.
    """
    from fedstrategies import RayGrid

    grid = RayGrid(app(name), num_clients=CLIENTS, actors=actors, fast="require")
    try:
        return train(name, schedule, clock, grid)
    finally:
        grid.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--actors", type=int, default=2)
    main(partial(run, actors=parser.parse_known_args()[0].actors), names=("flwr", "ray"))
