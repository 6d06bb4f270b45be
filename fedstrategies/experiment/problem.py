"""From a configuration to the objects of the mathematics.

Loading is a pure function of the configuration and cached by it: every algorithm of a
comparison, and every client that runs in one process, shares one copy of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.data import Dataset, binary_labels, load_dataset, partition, split_test
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.specs import parse_smoothness, parse_start_point
from fedstrategies.objectives import (
    BatchedObjective,
    LogisticRegression,
    Prox,
    Smoothness,
    Solution,
    logistic_smoothness,
    minimise,
    parse_prox,
)
from fedstrategies.random import Purpose, client_keys, uniforms

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

__all__ = ["Problem", "load_problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """The rows of every client, and what follows from them.

    Attributes
    ----------
    config : ProblemConfig
        What it was built from.
    features, labels : Tensor
        All training rows (N, d) and their labels in {-1, +1} (N,).
    shards : tuple of Tensor
        Row indices of each client, int64.
    evaluation : tuple of Tensor or None
        Rows and labels that accuracy is measured on if they are not the training rows.
    """

    config: ProblemConfig
    features: Tensor
    labels: Tensor
    shards: tuple[Tensor, ...]
    evaluation: tuple[Tensor, Tensor] | None

    @property
    def dimension(self) -> int:
        """d."""
        return self.features.shape[1]

    def objective(self, partition_id: int) -> LogisticRegression:
        """One client's f_i.

        Raises
        ------
        ConfigError
            If there is no such client.
        """
        if not 0 <= partition_id < len(self.shards):
            raise ConfigError(
                f"clients: partition {partition_id} asked for, the configuration has "
                f"{len(self.shards)} clients; start as many nodes"
            )
        rows = self.shards[partition_id]
        return LogisticRegression(
            features=self.features[rows],
            labels=self.labels[rows],
            l2=self.config.l2,
            batch_size=self.config.batch_size,
        )

    @cached_property
    def objectives(self) -> BatchedObjective:
        """All f_i, stacked."""
        return LogisticRegression.stack([self.objective(i) for i in range(len(self.shards))])

    @cached_property
    def smoothness(self) -> Smoothness:
        """Constants of the f_i: exact, unless the configuration overrides them."""
        exact = logistic_smoothness(self.objectives)
        given = parse_smoothness(self.config.smoothness) if self.config.smoothness else {}
        return replace(
            exact,
            L=given.get("L", exact.L),
            L_tilde=given.get("L_tilde", exact.L_tilde),
            L_max=given.get("L_max", exact.L_max),
        )

    @cached_property
    def prox(self) -> Prox:
        """The regulariser R."""
        return parse_prox(self.config.prox)

    @cached_property
    def solution(self) -> Solution:
        """A minimiser of f + R and its value f*."""
        return minimise(self.objectives, self.prox)

    @cached_property
    def start_point(self) -> Tensor:
        """x^0, shape (d,): i.i.d. normal entries with the configured mean and deviation."""
        loc, scale = parse_start_point(self.config.x0)
        point = torch.full((self.dimension,), loc, dtype=torch.float64)
        if scale:
            point = point + scale * _standard_normal(self.config.seed, self.dimension)
        return point.to(self.features.dtype)

    def initial_arrays(self) -> ArrayRecord:
        """x^0 as the model's named arrays."""
        from flwr.app import ArrayRecord

        return ArrayRecord(self.named(self.start_point))

    def named(self, x: Tensor) -> dict[str, Tensor]:
        """The flat vector x as the model's named arrays."""
        parts = self.objective(0).layout.unflatten(x)
        return {name: part.detach().clone() for name, part in parts.items()}

    def accuracy(self, x: Tensor) -> float:
        """Share of rows whose label is the sign of <a, x> (0 counts as -1).

        Measured on the test rows if there are any, else on the training rows.
        """
        features, labels = self.evaluation or (self.features, self.labels)
        correct = ((features @ x) > 0) == (labels > 0)
        return float(correct.sum()) / len(labels)


def _standard_normal(seed: int, count: int) -> Tensor:
    """Box-Muller on keyed uniforms: the same draw whatever generator torch ships."""
    key = client_keys(seed, 0, torch.zeros(1, dtype=torch.int64), Purpose.START_POINT)
    draws = uniforms(key, 2 * count)[0]
    # 1 - u is in (0, 1], which keeps the logarithm finite.
    radius = torch.sqrt(-2 * torch.log(1 - draws[:count]))
    return radius * torch.cos(2 * torch.pi * draws[count:])


@lru_cache(maxsize=4)
def load_problem(config: ProblemConfig) -> Problem:
    """Read the data set and deal its rows to the clients.

    Raises
    ------
    DataError
        If the data set cannot be read, has not two labels or has fewer rows than clients.
    """
    dataset = _load_dataset(config.dataset)
    dtype = getattr(torch, config.dtype or "float64")
    features = dataset.features.to(dtype)
    labels = binary_labels(dataset.labels, name=dataset.name).to(dtype)
    shards = partition(
        config.partition,
        len(dataset),
        config.clients,
        seed=config.seed,
        overlap=config.overlap,
    )
    evaluation = None
    if dataset.test is not None:
        rows, targets = dataset.test
        evaluation = rows.to(dtype), binary_labels(targets, name=f"{dataset.name} (test)").to(dtype)
    elif config.test_fraction:
        shards, held_out = split_test(shards, test_fraction=config.test_fraction, seed=config.seed)
        chosen = torch.unique(torch.cat(held_out))
        evaluation = features[chosen], labels[chosen]
    return Problem(
        config=config,
        features=features,
        labels=labels,
        shards=tuple(shards),
        evaluation=evaluation,
    )


@lru_cache(maxsize=2)
def _load_dataset(name_or_path: str) -> Dataset:
    return load_dataset(name_or_path)
