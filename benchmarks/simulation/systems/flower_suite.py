"""Flower's own simulation runtime, with this suite's client and strategy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.flower import simulate
from benchmarks.simulation.script import main
from benchmarks.simulation.suite import app, train
from benchmarks.simulation.task import Schedule

__all__ = ["run"]


def run(name: str, schedule: Schedule, clock: Clock) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`."""
    return simulate(lambda grid: train(name, schedule, clock, grid), app(name))


if __name__ == "__main__":
    main(run, names=("flwr", "ray"))
