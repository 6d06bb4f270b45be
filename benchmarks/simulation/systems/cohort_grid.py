"""`CohortGrid`: this suite in one process, by default on all cores."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.script import main
from benchmarks.simulation.suite import app, train
from benchmarks.simulation.task import CLIENTS, Schedule
from fedstrategies import CohortGrid

__all__ = ["run"]


def run(
    name: str, schedule: Schedule, clock: Clock, *, workers: int | None = None
) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`.

    Parameters
    ----------
    name, schedule, clock
        As for every system.
    workers : int or None
        Threads at most; None: one a core.
    """
    grid = CohortGrid(app(name), num_clients=CLIENTS, fast="require", workers=workers)
    return train(name, schedule, clock, grid)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workers", type=int)
    main(partial(run, workers=parser.parse_known_args()[0].workers), names=("flwr",))
