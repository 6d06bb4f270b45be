"""The grids: SPPM-AS over K and gamma for each solver, its baselines over theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fedstrategies.flower import Diverged
from simulations.reproduce.sppm.costs import SEEDS
from simulations.reproduce.sppm.passages import Job, passages
from simulations.reproduce.sppm.problems import bench

__all__ = ["GAMMAS", "SOLVERS", "jobs", "read_rows", "run_jobs"]

GAMMAS = ("0.01", "0.1", "1", "10", "100", "1000")
SOLVERS = ("gd", "cg", "lbfgs", "local-gd:steps=5")
_INNER = (*range(1, 11), 12, 14, 16, 18, 20)
_LOCAL_STEPS = (1, 2, 3, 5, 8, 10, 20)
_STEPSIZES = ("theory", "theory*2", "theory*4", "theory*8")
_FINER = (
    *product((1, 2, 3), ("theory*3", "theory*5", "theory*6")),
    *product((2, 3, 5, 8, 10, 20), ("theory*0.25", "theory*0.5", "theory*0.75")),
)
_COARSE = tuple(product((1, 2, 5), _STEPSIZES))
_FEW_INNER = (1, 2, 3, 4, 6, 8, 10, 14, 20)
_PROX_STEPS = (1, 5, 20)
_PROX_GAMMAS = ("1", "10", "100")


def jobs(dataset: str, split: str) -> Iterator[Job]:
    """All jobs of a data set and a split.

    On ``clusters``, the split that the comparison is about, all solvers and fine grids; on the
    others one solver and coarse grids. Full sampling is shown apart, with one seed, as nothing is
    drawn.
    """
    fine = split == "clusters"
    for sampling in ("stratified", "nice", "block", "full"):
        if sampling == "full" and not fine:
            continue
        seeds = (0,) if sampling == "full" else SEEDS
        solvers = SOLVERS if fine and sampling != "full" else ("lbfgs",)
        place: dict[str, Any] = {"dataset": dataset, "split": split, "sampling": sampling}
        local = [*product(_LOCAL_STEPS, _STEPSIZES), *_FINER] if fine else _COARSE
        for seed, (steps, stepsize) in product(seeds, local):
            yield Job(**place, method="localgd", local_steps=steps, stepsize=stepsize, seed=seed)
        inner = _INNER if fine else _FEW_INNER
        for solver, gamma, rounds, seed in product(solvers, GAMMAS, inner, seeds):
            yield Job(
                **place, method="sppm", solver=solver, gamma=gamma, inner_rounds=rounds, seed=seed
            )
        if not fine:
            continue
        for seed, steps, gamma in product(seeds, _PROX_STEPS, _PROX_GAMMAS):
            yield Job(
                **place,
                method="fedprox",
                gamma=gamma,
                local_steps=steps,
                stepsize="theory",
                seed=seed,
            )


def _file(runs: Path, dataset: str, split: str) -> Path:
    return runs / f"{dataset}-{split}.jsonl"


def read_rows(runs: Path, dataset: str, split: str) -> list[dict[str, Any]]:
    """Results so far; a line cut short is left out."""
    path = _file(runs, dataset, split)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def run_jobs(
    dataset: str, split: str, *, data: Path, runs: Path, report: Callable[[str], None]
) -> None:
    """Run what has not been run; every result is written as it comes."""
    done = {Job.of(row).key for row in read_rows(runs, dataset, split)}
    waiting: Sequence[Job] = [job for job in jobs(dataset, split) if job.key not in done]
    if not waiting:
        return
    runs.mkdir(parents=True, exist_ok=True)
    one = bench(data, dataset, split)
    path = _file(runs, dataset, split)
    # A line cut short would swallow the next one.
    whole = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        if whole:
            file.write("\n")
        for number, job in enumerate(waiting, start=1):
            try:
                row = passages(job, one)
            except Diverged as error:
                row = {**job.__dict__, "passages": {}, "diverged": str(error)}
            file.write(json.dumps(row) + "\n")
            if number % 200 == 0 or number == len(waiting):
                file.flush()
                report(f"{dataset}, {split}: {number} of {len(waiting)} runs")
