"""One run, and when it first came as close to the solution as each accuracy asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fedstrategies.flower import RoundRecord
from fedstrategies.reduce import sum_over_clients
from fedstrategies.sppm import SPPM, FedProx, LocalGD, parse_solver
from fedstrategies.sppm.importance import ImportanceStrategy
from simulations.reproduce.sppm.problems import Bench

__all__ = ["ACCURACIES", "MEASURES", "Job", "passages"]

MEASURES = ("distance_sq", "relative_distance_sq", "gap", "relative_gap", "grad_norm_sq")
ACCURACIES = (5e-2, 5e-3)
BUDGET = 120
"""Communication rounds after which a run is given up."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is run: numbers as text, so that a job is its own key in the file of results."""

    dataset: str
    split: str
    sampling: str
    method: str
    solver: str = ""
    gamma: str = ""
    inner_rounds: int = 1
    local_steps: int = 1
    stepsize: str = ""
    seed: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that tells it from other jobs."""
        return tuple(getattr(self, entry.name) for entry in fields(self))

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        """The job of a row of results."""
        return cls(**{entry.name: row[entry.name] for entry in fields(cls)})

    def strategy(self, one: Bench) -> ImportanceStrategy:
        """The strategy, new."""
        settings: dict[str, Any] = {
            "sampling": one.law(self.sampling, self.split),
            "smoothness": one.problem.smoothness,
            "seed": self.seed,
            "fraction_evaluate": 0.0,
        }
        if self.method == "sppm":
            return SPPM(
                prox_stepsize=float(self.gamma),
                inner_rounds=self.inner_rounds,
                solver=parse_solver(self.solver),
                **settings,
            )
        settings |= {"local_steps": self.local_steps, "stepsize": self.stepsize}
        if self.method == "fedprox":
            return FedProx(prox_stepsize=float(self.gamma), **settings)
        return LocalGD(**settings)


class _Watch:
    """Measures x whenever it moves; stops once everything is reached."""

    def __init__(self, one: Bench) -> None:
        self.solution = one.problem.solution
        self.objectives = one.problem.objectives
        self.ids = torch.arange(len(self.objectives))
        self.first: dict[str, float] = {}
        self.found: dict[str, list[int]] = {}
        self._x: Tensor | None = None

    def measure(self, x: Tensor) -> dict[str, float]:
        values, gradients = self.objectives.value_and_gradient(x)
        gradient = sum_over_clients(gradients, self.ids) / len(self.ids)
        measured = {
            "distance_sq": float((x - self.solution.x).square().sum()),
            "gap": float(values.mean()) - self.solution.value,
            "grad_norm_sq": float(gradient.square().sum()),
        }
        self.first = self.first or measured
        for name in ("distance_sq", "gap"):
            measured[f"relative_{name}"] = measured[name] / self.first[name]
        return measured

    def on_start(self, x: Tensor) -> None:
        self.measure(x)

    def on_round(self, record: RoundRecord) -> bool:
        if record.x is self._x:
            return record.round >= BUDGET
        self._x = record.x
        measured = self.measure(record.x)
        for name in MEASURES:
            for accuracy in ACCURACIES:
                if measured[name] <= accuracy:
                    place = [record.round, record.outer_round]
                    self.found.setdefault(f"{name}:{accuracy:g}", place)
        return all(f"{name}:{ACCURACIES[-1]:g}" in self.found for name in MEASURES)

    def on_end(self) -> None:
        """Nothing to close."""


def passages(job: Job, one: Bench) -> dict[str, Any]:
    """Run a job; the row of results.

    ``passages`` maps ``measure:accuracy`` to [communication rounds, cohorts] at which it was
    first met; what was not met within the budget is absent.
    """
    watch = _Watch(one)
    one.forget()
    start = one.problem.initial_arrays()
    job.strategy(one).start(one.grid, start, num_rounds=BUDGET, callbacks=[watch])
    return {**asdict(job), "passages": watch.found}
