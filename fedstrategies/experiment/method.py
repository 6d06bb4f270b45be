"""What an experiment needs of its family of algorithms, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.problem import Problem
from fedstrategies.objectives import BatchedObjective, Solution
from fedstrategies.sampling import FullParticipation, NiceSampling

if TYPE_CHECKING:
    from flwr.app import Context

    from fedstrategies.flower import BaseClient, BaseStrategy

__all__ = ["Method", "own_accuracies", "shared_settings"]


class Method(ABC):
    """An algorithm on a problem.

    Parameters
    ----------
    problem : Problem
        What is minimised.
    """

    def __init__(self, problem: Problem) -> None:
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
    return {
        "smoothness": problem.smoothness,
        "stepsize": config.stepsize,
        "sampling": FullParticipation() if size is None else NiceSampling(cohort_size=size),
        "seed": config.seed,
        "num_clients": config.clients,
        "fraction_evaluate": 0.0,
    }
