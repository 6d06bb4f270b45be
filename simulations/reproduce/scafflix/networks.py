"""Networks, short configuration: Scafflix, FLIX and FedAvg on Fashion-MNIST and Shakespeare roles.

Every run has a folder of its own under ``--runs``; one that is done is not repeated. The x_i* of a
seed serve all methods and weights, as they are solved for once in a process.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment import ScafflixConfig, Summary, run

__all__ = [
    "ALPHAS",
    "DATASETS",
    "METHODS",
    "SEEDS",
    "Job",
    "jobs",
    "run_jobs",
    "tuned",
    "tuning_jobs",
]

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)
SEEDS = (0, 1, 2)
METHODS = ("scafflix", "flix", "fedavg")
LOCAL_STEPS = 5
"""K, p = 0.2 as in the dissertation."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One data set's short configuration.

    Attributes
    ----------
    source : str
        Folder or file below ``--data``.
    options : dict
        What all its runs share.
    """

    source: str
    options: dict[str, object]


GRID = {
    "fashion-mnist": {
        "scafflix": (0.01, 0.02, 0.05),
        "flix": (0.02, 0.05, 0.1),
        "fedavg": (0.05, 0.1, 0.2),
    },
    "shakespeare": {
        "scafflix": (1.0, 3.0, 6.0),
        "flix": (1.5, 3.0, 6.0),
        "fedavg": (1.0, 3.0, 6.0),
    },
}
"""Three step sizes a method: the tuning's budget is the same for each."""

TUNED_AT = {"fashion-mnist": (0.5, 0.9), "shakespeare": (0.5,)}
"""The weights at which the step sizes are tried, on seed 0."""

_SHARED: dict[str, object] = {
    "l2": 0.0,
    "test_fraction": 0.2,
    "participation": 10,
    "measure_every": 1000,
    "accuracy_every": 5,
    "quiet": True,
    "overwrite": True,
}

DATASETS = {
    "fashion-mnist": Setting(
        source="fashion-mnist",
        options={
            "model": "cnn",
            "width": 4,
            "clients": 30,
            "partition": "dirichlet:alpha=0.3",
            "rounds": 80,
            "batch_size": 32,
            "local_epochs": 10,
            "local_stepsize": 0.1,
            "local_batch_size": 32,
        },
    ),
    "shakespeare": Setting(
        source="shakespeare/playshakespeare_editions.tar.xz",
        options={
            "model": "lstm",
            "width": 32,
            "sequence_length": 40,
            "clients": 20,
            "partition": "natural",
            "rounds": 80,
            "batch_size": 16,
            "local_epochs": 10,
            "local_stepsize": 3.0,
            "local_batch_size": 16,
        },
    ),
}
_ROWS = {"train": 9000, "t10k": 2000}
"""The short configuration's part of Fashion-MNIST: the first rows of each split."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run.

    Attributes
    ----------
    dataset, method : str
        Of `DATASETS` and `METHODS`.
    alpha : float or None
        None for FedAvg, which has none.
    seed : int
        Of everything random.
    stepsize : float
        gamma; FLIX's is divided by alpha^2, the factor by which a step on x is shorter in the
        deployed model.
    name : str
        Its folder.
    """

    dataset: str
    method: str
    alpha: float | None
    seed: int
    stepsize: float
    name: str

    def config(self, source: Path, out: Path) -> ScafflixConfig:
        """The experiment."""
        setting = DATASETS[self.dataset]
        own: dict[str, object] = {"algorithm": self.method, "stepsize": self.stepsize}
        if self.alpha is not None:
            own["alpha"] = self.alpha
        if self.method == "flix":
            own["stepsize"] = self.stepsize / (self.alpha or 1.0) ** 2
        else:
            own["local_steps"] = LOCAL_STEPS
        settings = {**_SHARED, **setting.options, **own}
        return ScafflixConfig(
            dataset=str(source),
            seed=self.seed,
            out=str(out),
            **settings,  # type: ignore[arg-type]
        )


def jobs(dataset: str, steps: Mapping[str, float]) -> Iterator[Job]:
    """The table of a data set, seed by seed: 11 runs each, with the tuned step sizes."""
    for seed in SEEDS:
        yield _job(dataset, "fedavg", None, seed, steps["fedavg"])
        for alpha in ALPHAS:
            for method in ("scafflix", "flix"):
                yield _job(dataset, method, alpha, seed, steps[method])


def tuning_jobs(dataset: str) -> Iterator[Job]:
    """The grid that the step sizes were chosen from."""
    for method, steps in GRID[dataset].items():
        for step in steps:
            for alpha in (None,) if method == "fedavg" else TUNED_AT[dataset]:
                yield _job(dataset, method, alpha, 0, step, prefix=f"tuning-{step:g}-")


def tuned(dataset: str, runs: Path) -> dict[str, float]:
    """Of each method's grid the step whose run ended with the best mean personal accuracy."""
    found: dict[str, dict[float, float]] = {}
    for job in tuning_jobs(dataset):
        last = Summary.read(runs / dataset / job.name).last
        totals = found.setdefault(job.method, {})
        accuracy = float(last.get("accuracy_personal", 0.0))
        totals[job.stepsize] = totals.get(job.stepsize, 0.0) + accuracy
    return {method: max(totals, key=totals.__getitem__) for method, totals in found.items()}


def _job(
    dataset: str, method: str, alpha: float | None, seed: int, stepsize: float, prefix: str = ""
) -> Job:
    weight = "" if alpha is None else f"-alpha-{alpha:g}"
    name = f"{prefix}{method}{weight}-seed-{seed}"
    return Job(dataset=dataset, method=method, alpha=alpha, seed=seed, stepsize=stepsize, name=name)


def run_jobs(
    chosen: Iterator[Job], *, data: Path, runs: Path, report: Callable[[str], None]
) -> None:
    """Run what is not done yet.

    Raises
    ------
    ValueError
        If the data are not where they should be.
    """
    for job in chosen:
        out = runs / job.dataset / job.name
        if (out / "summary.json").exists() and Summary.read(out).status in ("done", "diverged"):
            continue
        summary = run(job.config(_source(job.dataset, data, runs), out))
        last = summary.last
        report(
            f"{job.dataset} {job.name} step {job.stepsize:g}: {summary.status}, personal "
            f"{last.get('accuracy_personal', 0):.4f}, server {last.get('accuracy', 0):.4f}, "
            f"{summary.seconds:.0f} s"
        )


def _source(dataset: str, data: Path, runs: Path) -> Path:
    found = data / DATASETS[dataset].source
    if not found.exists():
        raise ValueError(f"{found}: no such file or folder; --data DIR holds the data sets")
    return _first_rows(found, runs / "fashion-mnist-part") if found.is_dir() else found


def _first_rows(source: Path, target: Path) -> Path:
    """The first rows of a folder of IDX files, as a folder of the same kind."""
    target.mkdir(parents=True, exist_ok=True)
    for split, rows in _ROWS.items():
        for kind, shape in (("images-idx3-ubyte", (28, 28)), ("labels-idx1-ubyte", ())):
            name = f"{split}-{kind}"
            if (target / name).exists():
                continue
            with gzip.open(source / f"{name}.gz") as file:
                magic, _ = struct.unpack(">II", file.read(8))
                header = struct.pack(f">{2 + len(shape)}I", magic, rows, *shape)
                file.read(4 * len(shape))
                size = rows * (784 if shape else 1)
                (target / name).write_bytes(header + file.read(size))
    return target
