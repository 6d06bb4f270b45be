"""The convex problems: three data sets, three ways to deal their rows, and the cohorts of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, RecordDict

from fedstrategies.engines import CohortGrid
from fedstrategies.experiment.cohort_law import cohort_law
from fedstrategies.experiment.problem import Problem, load_problem
from fedstrategies.experiment.sppm_config import SPPMConfig
from fedstrategies.flower import client_app
from fedstrategies.sampling import Sampling
from fedstrategies.sppm import SPPMClient

__all__ = ["DATASETS", "SAMPLINGS", "SPLITS", "Bench", "bench"]

CLIENTS, COHORT = 100, 10
DATASETS = ("mushrooms", "a6a", "a9a")
SPLITS = {
    "clusters": ("features:clusters=10", "contiguous"),
    "client-clusters": ("features", "features:balanced"),
    "file-order": ("contiguous", "features:balanced"),
}
"""Split -> how rows are dealt to 100 clients, and how clients are grouped into 10 strata.

``clusters``: ten k-means clusters of the rows, each dealt to ten clients; clusters are the strata.
``client-clusters``: a hundred clusters, one a client. ``file-order``: neighbouring rows. In both
the strata are balanced k-means groups of the clients' mean features.
"""
SAMPLINGS = ("nice", "block", "stratified")


@dataclass(frozen=True, eq=False)
class Bench:
    """A problem on an in-process grid that is used for many runs."""

    problem: Problem
    grid: CohortGrid

    def law(self, sampling: str, split: str) -> Sampling:
        """Cohorts of 10 (full: everybody)."""
        return _law(self, sampling, split)

    def forget(self) -> None:
        """Clients remember nothing of earlier runs."""
        for context in self.grid.contexts.values():
            context.state = RecordDict()


@lru_cache(maxsize=1)
def bench(data: Path, dataset: str, split: str) -> Bench:
    """The problem of a data set and a split.

    Raises
    ------
    DataError
        If the data set is not there.
    """
    name = dataset if dataset == "mushrooms" else str(data / "libsvm" / f"{dataset}.xz")
    config = SPPMConfig(dataset=name, clients=CLIENTS, partition=SPLITS[split][0], l2=0.1)
    problem = load_problem(config.problem)
    objectives = [problem.objective(i) for i in range(CLIENTS)]

    def client(context: Context) -> SPPMClient:
        return SPPMClient(context, objective=objectives[int(context.node_config["partition-id"])])

    return Bench(problem, CohortGrid(client_app(client), num_clients=CLIENTS, fast="require"))


@lru_cache(maxsize=16)
def _law(one: Bench, sampling: str, split: str) -> Sampling:
    grouped = sampling in ("block", "stratified")
    config = SPPMConfig(
        clients=CLIENTS,
        sampling=sampling,
        cohort_size=None if sampling == "full" else COHORT,
        strata=SPLITS[split][1] if grouped else None,
    )
    return cohort_law(config, one.problem)
