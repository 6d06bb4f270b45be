"""What the scripts of all systems share: their arguments and what they leave behind."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import packages
from benchmarks.simulation.clock import Clock
from benchmarks.simulation.task import Schedule

__all__ = ["System", "main"]

System: TypeAlias = Callable[[str, Schedule, Clock], npt.NDArray[np.float32]]
"""(model, schedule, clock) -> final weights; laps the clock once a round."""


def main(system: System, *, names: tuple[str, ...]) -> None:
    """Run a system in this process, and write its times and weights into a folder.

    ``result.json`` has the seconds of each round, the time the first ended, the peak of memory
    and the versions; ``weights.npy`` the final weights. A framework that is not installed is
    noted in ``result.json`` and no error.

    Parameters
    ----------
    system : System
        What is measured.
    names : tuple of str
        Distributions whose versions are noted.
    """
    parser = argparse.ArgumentParser(description="One system of benchmarks.simulation")
    parser.add_argument("--model", required=True)
    parser.add_argument("--schedule", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options, _ = parser.parse_known_args()
    torch.set_num_threads(1)
    schedule = Schedule.load(options.schedule)
    clock = Clock(len(schedule))
    try:
        weights = system(options.model, schedule, clock)
    except ImportError as error:
        _write(options.out, {"missing": str(error)})
        return
    np.save(options.out / "weights.npy", weights, allow_pickle=False)
    result = {
        "seconds": clock.seconds,
        "first_round_ended": clock.first_round_ended,
        "peak": clock.peak,
        "versions": packages(("torch", "numpy", *names)),
    }
    _write(options.out, result)


def _write(folder: Path, result: dict[str, object]) -> None:
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
