"""Criteria of P_i against one another on the short configuration.

Under LowerB, where three of four shared layers are pruned for every client, and with the step size
that `jobs` found for FedAvg. Criteria that need activations have them told in every round, of the
models as the clients received them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simulations.reproduce.fedp3.jobs import SEEDS, SPLITS, Job

__all__ = ["CRITERIA", "KEEPS", "CriterionJob", "criterion_jobs"]

CRITERIA = ("magnitude", "wanda", "ria", "symwanda")
KEEPS = (0.9, 0.7, 0.5, 0.2)
STEPSIZE = 0.2
"""The best for FedAvg on both splits, see the table of methods."""


@dataclass(frozen=True, kw_only=True)
class CriterionJob:
    """One run.

    Attributes
    ----------
    criterion : str
        Of `CRITERIA`.
    keep : float
        p of `KEEPS`; 1 once for all criteria: nothing is pruned.
    split : str
        Of `SPLITS`.
    seed : int
        Of everything random.
    """

    criterion: str
    keep: float
    split: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"criterion-{self.split}-{self.criterion}-{self.keep:g}-seed-{self.seed}"

    def settings(self, source: Path, out: Path) -> dict[str, object]:
        """The experiment's options: those of `jobs` under LowerB, and P_i."""
        like = Job(method="LowerB", split=self.split, seed=self.seed, stepsize=STEPSIZE)
        return {**like.settings(source, out), "pruning": self.criterion, "keep": self.keep}


def criterion_jobs() -> Iterator[CriterionJob]:
    """The table, seed by seed."""
    for seed in SEEDS:
        for split in SPLITS:
            yield CriterionJob(criterion="magnitude", keep=1.0, split=split, seed=seed)
            for keep in KEEPS:
                for criterion in CRITERIA:
                    yield CriterionJob(criterion=criterion, keep=keep, split=split, seed=seed)
