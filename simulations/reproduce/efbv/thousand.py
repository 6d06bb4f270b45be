"""The check with 1,000 clients on mushrooms: how much more EF-BV gains than EF21."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Literal

from simulations.reproduce.efbv.curve import Curve
from simulations.reproduce.efbv.instance import load_instance
from simulations.reproduce.efbv.race import race

__all__ = ["CLIENTS", "ROUNDS", "STARTS", "Start", "log_reduction", "measure_thousand"]

CLIENTS = 1000
"""n: shards of eight rows."""
ROUNDS = 2000
"""T of the check."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: x^0 and h_i^0, as the command line writes them."""

    x0: str
    shift_init: Literal["gradient", "zero"]

    @property
    def title(self) -> str:
        """For a table or a figure."""
        memory = "0" if self.shift_init == "zero" else "gradient"
        return f"x0 = {self.x0}, h0 = {memory}"

    def folder(self, parent: Path) -> Path:
        """Where the two runs from here are kept."""
        return parent / f"n{CLIENTS}-x0-{self.x0.partition(':')[0]}-h0-{self.shift_init}"


STARTS = (
    Start(x0="zero", shift_init="zero"),
    Start(x0="zero", shift_init="gradient"),
    Start(x0="normal:loc=10", shift_init="gradient"),
)


def log_reduction(curve: Curve) -> float:
    """``log((f(x^0) - f*) / (f(x^T) - f*))`` over a whole curve."""
    return log(curve.points[0].gap / curve.last.gap)


def measure_thousand(
    curves: Path,
    checkpoints: Path,
    *,
    rounds: int = ROUNDS,
    report: Callable[[str], None] = print,
) -> None:
    """Run both methods from each of `STARTS`; see `simulations.reproduce.efbv.race.race`."""
    for start in STARTS:
        race(
            load_instance("mushrooms", clients=CLIENTS, x0=start.x0),
            rounds=rounds,
            every=max(1, rounds // 40),
            curves=start.folder(curves),
            checkpoints=start.folder(checkpoints),
            shift_init=start.shift_init,
            report=report,
        )
