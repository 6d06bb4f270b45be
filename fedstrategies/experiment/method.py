"""What an experiment needs of its family of algorithms, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import Problem
from fedstrategies.objectives import BatchedObjective, Solution
from fedstrategies.robust import parse_aggregator
from fedstrategies.sampling import FullParticipation, NiceSampling

if TYPE_CHECKING:
    from flwr.app import Context

    from fedstrategies.flower import BaseClient, BaseStrategy
    from fedstrategies.privacy import Privacy

__all__ = ["Method", "count_releases", "own_accuracies", "shared_settings"]


class Method(ABC):
    """An algorithm on a problem.

    Parameters
    ----------
    config : ExperimentConfig
        How.
    problem : Problem
        What is minimised.
    """

    def __init__(self, config: ExperimentConfig, problem: Problem) -> None:
        self.config = config
        self.problem = problem

    @abstractmethod
    def strategy(self) -> BaseStrategy:
        """A fresh strategy.

        Raises
        ------
        ValueError
            If a setting is impossible.
        """

    @abstractmethod
    def client(self, context: Context) -> BaseClient:
        """The client of the partition that ``context.node_config`` names.

        Raises
        ------
        ConfigError
            If the configuration has no such client.
        """

    def releases(self) -> Sequence[int]:
        """How many gradients each client releases in the run if no message is lost.

        Raises
        ------
        ConfigError
            If the method has no private form.
        """
        raise ConfigError(f"epsilon: {type(self).__name__} has no private form")

    @cached_property
    def privacy(self) -> Privacy | None:
        """What every client spends at most, with noise calibrated to it; None: nothing is private.

        Raises
        ------
        ConfigError
            If the noise cannot be found.
        """
        from fedstrategies.experiment.privacy_plan import privacy_of

        if not self.config.private:
            return None
        sizes = [len(shard) for shard in self.problem.shards]
        return privacy_of(self.config, releases=self.releases(), sizes=sizes)

    def cohorts(self, rounds: int) -> list[Tensor]:
        """Cohorts of draws 1 to T, functions of the seed alone."""
        trial = self.strategy()
        trial.prepare(self.problem.start_point)
        return [trial.cohort(draw) for draw in range(1, rounds + 1)]

    def measured(self, objectives: BatchedObjective) -> BatchedObjective:
        """The functions whose mean is the loss, from the clients' f_i (default: these)."""
        return objectives

    def solution(self) -> Solution:
        """The minimiser of the loss; see `Problem.solution`."""
        return self.problem.solution

    def accuracies(self, x: Tensor) -> dict[str, float]:
        """What is measured beside the loss: ``accuracy`` of the server's model x (d,)."""
        return {"accuracy": self.problem.accuracy(x)}

    def personal_models(self, x: Tensor) -> list[Mapping[str, Tensor]]:
        """Every client's deployed model as named arrays, if they are to be saved."""
        return []

    def local_solve(self) -> dict[str, float | str]:
        """What the clients' own solutions cost, by name, if there are any."""
        return {}


def count_releases(
    clients: int, cohorts: Iterable[Tensor], steps: Iterable[int | Sequence[int]]
) -> list[int]:
    """Sum over rounds of each participant's local steps.

    Parameters
    ----------
    clients : int
        n.
    cohorts : iterable of Tensor
        Partition ids of each round's cohort.
    steps : iterable of int or sequence of int
        Releases of a participant in that round; one for all, or one for each client.
    """
    counts = torch.zeros(clients, dtype=torch.int64)
    for cohort, releases in zip(cohorts, steps, strict=True):
        many = torch.tensor(releases).expand(clients)
        counts[cohort] += many[cohort]
    return [int(count) for count in counts]


def own_accuracies(problem: Problem, deployed: Sequence[Tensor]) -> dict[str, float]:
    """Accuracies of the clients' deployed models on their own rows, see `spread_over_clients`.

    Measured on a client's held-out rows where some are held out; a client too small for one is
    then left out, because its training rows are no measure.

    Parameters
    ----------
    problem : Problem
        Whose rows.
    deployed : sequence of Tensor
        One model (d,) for each client.
    """
    from fedstrategies.flower.personal_metrics import spread_over_clients

    found = []
    for index, model in enumerate(deployed):
        own = problem.objective(index) if problem.held_out is None else None
        measured = problem.held_out_objective(index) if own is None else own
        if measured is not None:
            found.append(float(measured.accuracy(model)))
    return spread_over_clients(found)


def shared_settings(config: ExperimentConfig, problem: Problem) -> dict[str, object]:
    """Constructor arguments that every strategy takes."""
    size = config.cohort_size
    # Constants computed from private rows are not to steer anything: those of clipped rows only.
    public = not config.private or config.clip_rows is not None
    return {
        "smoothness": problem.smoothness if public else None,
        "stepsize": config.stepsize,
        "sampling": FullParticipation() if size is None else NiceSampling(cohort_size=size),
        "seed": config.seed,
        "num_clients": config.clients,
        "fraction_evaluate": 0.0,
        "max_update_norm": config.max_update_norm,
        "aggregator": None if config.aggregator is None else parse_aggregator(config.aggregator),
    }
