"""Convex panels: Scafflix against gradient descent on the FLIX objective.

Two set-ups. *Theory*: x0 = 0, gamma_i = 1/L_i, K drawn with p = 1/sqrt(kappa_max) and, beside it,
fixed to the nearest whole number. *Authors*: what the published code does on mushrooms, as far as
its figures let one tell: an intercept, labels 1 and 2 as +1 and -1, x0 = (1, ..., 1), L_i without
the regulariser, and one step 1/mean(alpha^2 L_i) in the FLIX variable for everyone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median

import torch

from fedstrategies.data import binary_labels, load_dataset
from fedstrategies.experiment import ScafflixConfig, load_problem, read_history, run

__all__ = [
    "ALPHAS",
    "DATASETS",
    "ROUNDS",
    "Panel",
    "authors",
    "panels",
    "run_authors",
    "run_panels",
]

ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)
DATASETS = ("mushrooms", "a6a", "w8a")
ROUNDS = 50
SEEDS = range(11)
L2 = 0.1

PUBLISHED = {
    1.0: {"flix": (16.7, 2.39, 1.14), "scafflix": (16.7, 0.131, 0.0198)},
    0.1: {"flix": (0.311, 2.02e-2, 1.10e-2), "scafflix": (0.311, 1.30e-3, 2.00e-4)},
    0.01: {"flix": (2.56e-3, 2.04e-4, 1.10e-4), "scafflix": (2.56e-3, 1.31e-5, 2.01e-6)},
}
"""Gap after 0, 10 and 20 rounds on mushrooms, obtained with the authors' code (one seed)."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One curve of a panel.

    Attributes
    ----------
    dataset : str
        Of `DATASETS`.
    alpha : float
        The weight of every client.
    method : str
        ``flix``, ``scafflix`` (drawn K) or ``scafflix-fixed``.
    seed : int
        Of the draws of K.
    """

    dataset: str
    alpha: float
    method: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.dataset}/{self.method}-alpha-{self.alpha:g}-seed-{self.seed}"


def panels() -> Iterator[Panel]:
    """All curves of the theory's set-up."""
    for dataset in DATASETS:
        for alpha in ALPHAS:
            yield Panel(dataset=dataset, alpha=alpha, method="flix")
            yield Panel(dataset=dataset, alpha=alpha, method="scafflix-fixed")
            for seed in SEEDS:
                yield Panel(dataset=dataset, alpha=alpha, method="scafflix", seed=seed)


def run_panels(*, data: Path, runs: Path, report: Callable[[str], None]) -> None:
    """Run what is not there yet.

    Raises
    ------
    ConfigError, DataError
        If a data set is not where it should be.
    """
    for panel in panels():
        out = runs / "convex" / panel.name
        if (out / "summary.json").exists():
            continue
        source = panel.dataset
        if source != "mushrooms":
            source = str(data / "libsvm" / f"{source}.xz")
        settings: dict[str, object] = {}
        if panel.method == "scafflix-fixed":
            settings["local_steps"] = _steps(source)
        summary = run(
            _config(
                source,
                panel.alpha,
                out,
                algorithm=panel.method.removesuffix("-fixed"),
                seed=panel.seed,
                **settings,
            )
        )
        report(f"{panel.name}: {summary.status}, gap {summary.last['gap']:.3e}")


def _steps(source: str) -> int:
    """The whole number next to sqrt(kappa_max) = 1/p."""
    problem = load_problem(_config(source, 1.0, Path("."), algorithm="scafflix").problem)
    known = problem.smoothness
    assert known is not None
    assert known.L_i is not None
    return round(sqrt(max(known.L_i) / L2))


def _config(source: str, alpha: float, out: Path, **settings: object) -> ScafflixConfig:
    shared: dict[str, object] = {
        "dataset": source,
        "clients": 8,
        "l2": L2,
        "rounds": ROUNDS,
        "alpha": alpha,
        "fstar": "solve",
        "accuracy_every": 0,
        "out": str(out),
        "overwrite": True,
        "quiet": True,
    }
    return ScafflixConfig(**{**shared, **settings})  # type: ignore[arg-type]


def gaps(runs: Path, dataset: str, alpha: float, method: str) -> list[float]:
    """Gap after every round; of the drawn K the median over the seeds."""
    seeds = SEEDS if method == "scafflix" else (0,)
    curves = []
    for seed in seeds:
        panel = Panel(dataset=dataset, alpha=alpha, method=method, seed=seed)
        records = read_history(runs / "convex" / panel.name / "history.jsonl")
        curves.append([float(record["gap"]) for record in records])
    return [median(values) for values in zip(*curves, strict=True)]


def run_authors(runs: Path) -> dict[str, list[float]]:
    """The authors' set-up on mushrooms: gaps after 0, 10, 20 rounds by ``method alpha``."""
    source = runs / "mushrooms-with-intercept.libsvm"
    _write_with_intercept(source)
    problem = load_problem(_config(str(source), 1.0, runs, algorithm="scafflix").problem)
    known = problem.smoothness
    assert known is not None
    assert known.L_i is not None
    # theirs are those of the loss alone
    mean = sum(known.L_i) / len(known.L_i) - L2
    found: dict[str, list[float]] = {"p": [sqrt(L2 / mean)]}
    for alpha in PUBLISHED:
        common = 1 / (alpha**2 * mean)
        for method, settings in (
            ("flix", [{"stepsize": common}]),
            (
                "scafflix",
                [
                    {"stepsize": alpha**2 * common, "p": sqrt(L2 / mean), "seed": seed}
                    for seed in SEEDS
                ],
            ),
        ):
            rows = []
            for setting in settings:
                out = runs / "authors" / f"{method}-{alpha:g}-{setting.get('seed', 0)}"
                config = _config(
                    str(source),
                    alpha,
                    out,
                    algorithm=method,
                    x0="normal:loc=1,scale=0",
                    rounds=20,
                    **setting,
                )
                run(config)
                records = read_history(out / "history.jsonl")
                rows.append([float(records[t]["gap"]) for t in (0, 10, 20)])
            found[f"{method} {alpha:g}"] = [median(column) for column in zip(*rows, strict=True)]
    return found


def authors(runs: Path) -> Mapping[str, list[float]]:
    """`run_authors`, kept in a file."""
    path = runs / "authors.json"
    if not path.exists():
        found = run_authors(runs)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    kept: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _write_with_intercept(path: Path) -> None:
    """Mushrooms with a feature that is always 1, and the labels the other way round."""
    if path.exists():
        return
    data = load_dataset("mushrooms")
    labels = -binary_labels(data.labels, name=data.name)
    rows = torch.cat([data.features, torch.ones(len(data), 1, dtype=torch.float64)], dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for label, row in zip(labels.tolist(), rows, strict=True):
            places = row.nonzero()[:, 0].tolist()
            entries = " ".join(f"{place + 1}:{float(row[place]):g}" for place in places)
            file.write(f"{label:+g} {entries}\n")
