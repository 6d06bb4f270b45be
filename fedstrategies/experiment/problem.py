"""From a configuration to the objects of the mathematics.

Loading is a pure function of the configuration and cached by it: every algorithm of a
comparison, and every client that runs in one process, shares one copy of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.data import partition, split_test
from fedstrategies.experiment.datasets import read_dataset
from fedstrategies.experiment.model import Model
from fedstrategies.experiment.models import model_of
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.specs import parse_smoothness
from fedstrategies.experiment.start_point import start_point
from fedstrategies.layout import Layout
from fedstrategies.objectives import (
    BatchedObjective,
    Objective,
    Prox,
    Smoothness,
    Solution,
    parse_prox,
)
from fedstrategies.privacy import clip_rows

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

__all__ = ["Problem", "load_problem"]

_SAMPLE = 4096


@dataclass(frozen=True, eq=False)
class Problem:
    """The rows of every client, and what follows from them.

    Attributes
    ----------
    config : ProblemConfig
        What it was built from.
    model : Model
        How rows become the f_i.
    features, labels : Tensor
        All training rows (N, p) and their labels (N,): -1 and +1 for logreg, else 0..K-1.
    shards : tuple of Tensor
        Row indices of each client: int64, shape (m_i,).
    evaluation : tuple of Tensor or None
        Rows (N', p) and labels (N',) that accuracy is measured on if they are not the training
        rows.
    held_out : tuple of Tensor or None
        Row indices of each client that are kept from training, to measure its own model on:
        int64, shape (m_i',).
    """

    config: ProblemConfig
    model: Model
    features: Tensor
    labels: Tensor
    shards: tuple[Tensor, ...]
    evaluation: tuple[Tensor, Tensor] | None
    held_out: tuple[Tensor, ...] | None = None

    @property
    def dimension(self) -> int:
        """d, the number of parameters."""
        return self.layout.dimension

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return self.objective(0).layout

    def objective(self, partition_id: int) -> Objective:
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
        return self.model.objective(self.features[rows], self.labels[rows])

    def held_out_objective(self, partition_id: int) -> Objective | None:
        """The loss on a client's own held-out rows; None where it has none."""
        rows = None if self.held_out is None else self.held_out[partition_id]
        if rows is None or not len(rows):
            return None
        # Only on demand: it holds a copy of the client's rows.
        training = self.objective(partition_id) if self.model.normalises_by_batch else None
        return self.model.objective(self.features[rows], self.labels[rows], training=training)

    @cached_property
    def objectives(self) -> BatchedObjective:
        """All f_i, stacked."""
        clients = [self.objective(i) for i in range(len(self.shards))]
        return type(clients[0]).stack(clients)

    @cached_property
    def smoothness(self) -> Smoothness | None:
        """Constants of the f_i: exact, unless the configuration overrides them.

        None for a model that has none and a configuration that states none.
        """
        exact = self.model.smoothness(self)
        given = parse_smoothness(self.config.smoothness) if self.config.smoothness else {}
        if exact is not None:
            return replace(
                exact,
                L=given.get("L", exact.L),
                L_tilde=given.get("L_tilde", exact.L_tilde),
                L_max=given.get("L_max", exact.L_max),
            )
        if not given:
            return None
        # max L_i^2 <= sum L_i^2 = n L_tilde^2, whatever the L_i are.
        bound = sqrt(len(self.shards)) * given["L_tilde"]
        return Smoothness(L=given["L"], L_tilde=given["L_tilde"], L_max=given.get("L_max", bound))

    @cached_property
    def prox(self) -> Prox:
        """The regulariser R."""
        return parse_prox(self.config.prox)

    @cached_property
    def solution(self) -> Solution:
        """A minimiser of f + R and its value f*.

        Raises
        ------
        ConfigError
            If the model has no solver.
        SolveError
            If the solver does not get there.
        """
        return self.model.solution(self)

    @cached_property
    def start_point(self) -> Tensor:
        """x^0, shape (d,); see `fedstrategies.experiment.start_point`."""
        made = self.layout.flatten(self.objective(0).initial_arrays())
        return start_point(self.config.x0 or "zero", self.layout, self.config.seed, made=made)

    def initial_arrays(self) -> ArrayRecord:
        """x^0 as the model's named arrays."""
        from flwr.app import ArrayRecord

        return ArrayRecord(self.named(self.start_point))

    def named(self, x: Tensor) -> dict[str, Tensor]:
        """The flat vector x as the model's named arrays."""
        parts = self.layout.unflatten(x)
        return {name: part.detach().clone() for name, part in parts.items()}

    def accuracy(self, x: Tensor) -> float:
        """Share of rows classified correctly; see the model's own ``accuracy``.

        Measured on the test rows if there are any, else on the training rows.
        """
        if self.evaluation is None:
            return self.model.accuracy(x, self.features, self.labels)
        training = self._sample if self.model.normalises_by_batch else None
        return self.model.accuracy(x, *self.evaluation, training=training)

    @cached_property
    def _sample(self) -> Objective:
        """Training rows of all clients, at most 4096, evenly spaced: f for their statistics.

        Statistics of the batch exist on the nodes alone. That the server measures its model on
        rows of its own, and normalises by rows of theirs, is for simulations.
        """
        rows = torch.unique(torch.cat(self.shards))
        rows = rows[:: -(-len(rows) // _SAMPLE)]
        return self.model.objective(self.features[rows], self.labels[rows])


@lru_cache(maxsize=4)
def load_problem(config: ProblemConfig) -> Problem:
    """Read the data set and deal its rows to the clients.

    Parameters
    ----------
    config : ProblemConfig
        What is minimised; the last four problems are remembered.

    Raises
    ------
    DataError
        If the data set cannot be read, does not fit the model or has fewer rows than clients.
    """
    dataset = read_dataset(config)
    dtype = getattr(torch, config.dtype or "float64")
    model = model_of(config, dataset)
    features = _in_precision(dataset.features, dtype, config.clip_rows)
    labels = model.targets(dataset.labels, name=dataset.name)
    shards = partition(
        config.partition,
        dataset,
        config.clients,
        seed=config.seed,
        overlap=config.overlap,
    )
    evaluation, held_out = None, None
    if config.test_fraction:
        shards, held_out = split_test(shards, test_fraction=config.test_fraction, seed=config.seed)
        chosen = torch.unique(torch.cat(held_out))
        evaluation = features[chosen], labels[chosen]
    if dataset.test is not None:
        rows, targets = dataset.test
        targets = model.targets(targets, name=f"{dataset.name} (test)")
        evaluation = _in_precision(rows, dtype, config.clip_rows), targets
    return Problem(
        config=config,
        model=model,
        features=features,
        labels=labels,
        shards=tuple(shards),
        evaluation=evaluation,
        held_out=None if held_out is None else tuple(held_out),
    )


def _in_precision(features: Tensor, dtype: torch.dtype, max_norm: float | None) -> Tensor:
    """Numbers in the precision of the mathematics, rows clipped; characters stay whole numbers."""
    if not features.is_floating_point():
        return features
    rows = features.to(dtype)
    return rows if max_norm is None else clip_rows(rows, max_norm)
