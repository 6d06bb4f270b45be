"""Accuracy by criterion of P_i, on the page about pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.pages import replace_between
from fedstrategies.experiment import Summary
from simulations.reproduce.fedp3.criteria_jobs import (
    CRITERIA,
    KEEPS,
    CriterionJob,
    criterion_jobs,
)
from simulations.reproduce.fedp3.figures import draw_criteria
from simulations.reproduce.fedp3.jobs import SEEDS, SPLITS
from simulations.reproduce.fedp3.tables import is_done, spread, table

__all__ = ["BEGIN", "END", "write_criteria"]

BEGIN, END = "<!-- criteria:begin -->", "<!-- criteria:end -->"


def write_criteria(runs: Path, page: Path) -> None:
    """Rewrite tables and picture of ``page`` from the folders below ``runs``.

    Raises
    ------
    ValueError
        If the page has lost its markers, or a run is missing.
    """
    missing = [job.name for job in criterion_jobs() if not is_done(runs / job.name)]
    if missing:
        raise ValueError(f"{runs}: {len(missing)} runs of criteria are missing; give --data")
    pictures = page.parent / "pruning"
    pictures.mkdir(exist_ok=True)
    levels = {
        split: {
            criterion: {keep: _accuracies(runs, criterion, keep, split) for keep in (1.0, *KEEPS)}
            for criterion in CRITERIA
        }
        for split in SPLITS
    }
    draw_criteria(levels, pictures / "criteria.png", title="P_i by criterion, FedP3 under LowerB")
    parts = ["![accuracy against the share kept](pruning/criteria.png)"]
    parts += [_table(runs, split, levels[split]) for split in SPLITS]
    replace_between(page, BEGIN, END, "\n\n" + "\n\n".join(parts) + "\n\n")


def _summaries(runs: Path, criterion: str, keep: float, split: str) -> list[Summary]:
    # Nothing is pruned at 1, by whatever criterion.
    kind = CRITERIA[0] if keep == 1.0 else criterion
    jobs = (CriterionJob(criterion=kind, keep=keep, split=split, seed=seed) for seed in SEEDS)
    return [Summary.read(runs / job.name) for job in jobs]


def _accuracies(runs: Path, criterion: str, keep: float, split: str) -> list[float]:
    return [float(one.last["accuracy"]) for one in _summaries(runs, criterion, keep, split)]


def _table(runs: Path, split: str, levels: Mapping[str, Mapping[float, Sequence[float]]]) -> str:
    heads = ("keep", *CRITERIA, "up, magnitude", "up, the others")
    rows = []
    for keep in KEEPS:
        found = [spread([100 * value for value in levels[one][keep]]) for one in CRITERIA]
        sent = [
            mean(float(s.last["uplink_bytes"]) for s in _summaries(runs, one, keep, split)) / 1e6
            for one in CRITERIA[:2]
        ]
        rows.append((f"{keep:g}", *found, *(f"{one:.2f} MB" for one in sent)))
    unpruned = spread([100 * value for value in levels[CRITERIA[0]][1.0]])
    return f"Server's model on {split}; nothing pruned: {unpruned}.\n\n{table(heads, rows)}"
