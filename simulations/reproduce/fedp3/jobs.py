"""The runs of the short configuration: every method, both splits, three seeds.

A run has a folder below ``--runs``; one that is done is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment import Summary

__all__ = ["METHODS", "SEEDS", "SPLITS", "Job", "jobs", "tuned", "tuning_jobs"]

SEEDS = (0, 1, 2)
SPLITS = {
    "S1": "classes:per_client=5,assignment=deterministic",
    "S2": "dirichlet:alpha=0.5",
}
STEPS = (0.05, 0.1, 0.2, 0.4)
"""Step sizes that FedAvg is tried with; the best one serves all methods."""

METHODS: Mapping[str, Mapping[str, object]] = {
    "FedAvg": {"layers": "all"},
    "OPU3": {"layers": "opu3"},
    "OPU2": {"layers": "opu2"},
    "LowerB": {"layers": "lowerb"},
    "OPU3, keep 0.9": {"layers": "opu3", "keep": 0.9},
    "OPU3, keep 0.7": {"layers": "opu3", "keep": 0.7},
    "OPU3, keep 0.5": {"layers": "opu3", "keep": 0.5},
    "LowerB, keep 0.9": {"layers": "lowerb", "keep": 0.9},
    "LowerB, keep 0.7": {"layers": "lowerb", "keep": 0.7},
    "LowerB, keep 0.5": {"layers": "lowerb", "keep": 0.5},
    "OPU3, uniform": {"layers": "opu3", "keep": 0.9, "local-pruning": "uniform:q=0.5"},
    "OPU3, ordered dropout": {"layers": "opu3", "keep": 0.9, "local-pruning": "ordered:q=0.5"},
    "OPU1-2-3, simple": {"layers": "opu123"},
    "OPU1-2-3, weighted": {"layers": "opu123", "aggregation": "weighted"},
    "OPU1-2-3, attention": {"layers": "opu123", "aggregation": "attention"},
    "OPU3, own layers only": {"layers": "opu3", "trained": "assigned"},
    "LowerB, own layers only": {"layers": "lowerb", "trained": "assigned"},
}
"""Local pruning "fixed" is the row without any: "OPU3, keep 0.9"."""

_SHARED: Mapping[str, object] = {
    "algorithm": "fedp3",
    "model": "lenet",
    "width": 64,
    "clients": 20,
    "rounds": 20,
    "local-epochs": 1,
    "batch-size": 48,
    "l2": 0.0,
    "clip-gradient": 10.0,
    "test-fraction": 0.3,
    "personal-head": 5,
    "measure-every": 1000,
    "accuracy-every": 5,
    "quiet": True,
    "overwrite": True,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run.

    Attributes
    ----------
    method, split : str
        Of `METHODS` and `SPLITS`.
    seed : int
        Of everything random.
    stepsize : float
        gamma.
    """

    method: str
    split: str
    seed: int
    stepsize: float

    @property
    def name(self) -> str:
        """Its folder."""
        method = self.method.lower().replace(",", "").replace(" ", "-")
        return f"{self.split}-{method}-{self.stepsize:g}-seed-{self.seed}"

    def settings(self, source: Path, out: Path) -> dict[str, object]:
        """The experiment's options."""
        return {
            **_SHARED,
            **METHODS[self.method],
            "dataset": str(source),
            "partition": SPLITS[self.split],
            "seed": self.seed,
            "stepsize": self.stepsize,
            "out": str(out),
        }


def tuning_jobs() -> Iterator[Job]:
    """FedAvg with each step size, on the first seed."""
    for split in SPLITS:
        for step in STEPS:
            yield Job(method="FedAvg", split=split, seed=SEEDS[0], stepsize=step)


def tuned(runs: Path) -> dict[str, float]:
    """The step size of each split: the best final mean of FedAvg's local accuracies."""
    best: dict[str, tuple[float, float]] = {}
    for job in tuning_jobs():
        found = (_accuracy(runs / job.name), job.stepsize)
        best[job.split] = max(best.get(job.split, found), found)
    return {split: step for split, (_, step) in best.items()}


def jobs(steps: Mapping[str, float]) -> Iterator[Job]:
    """The table, seed by seed."""
    for seed in SEEDS:
        for split in SPLITS:
            for method in METHODS:
                yield Job(method=method, split=split, seed=seed, stepsize=steps[split])


def _accuracy(folder: Path) -> float:
    return float(Summary.read(folder).last.get("accuracy", 0.0))
