"""What an experiment asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from fedstrategies.experiment.options import ConfigError
from fedstrategies.objectives import Objective, Smoothness, Solution

if TYPE_CHECKING:
    from fedstrategies.experiment.problem import Problem

__all__ = ["Model"]


class Model(ABC):
    """What ``--model`` names."""

    @abstractmethod
    def targets(self, labels: Tensor, *, name: str) -> Tensor:
        """Labels (N,) as the objective wants them.

        Raises
        ------
        DataError
            If they do not fit the model.
        """

    @abstractmethod
    def objective(
        self, features: Tensor, targets: Tensor, *, training: Objective | None = None
    ) -> Objective:
        """f of these rows.

        ``training`` is f of the rows that a model was trained on, where these here only measure
        it: batch normalisation takes its statistics from there. None: from these.
        """

    @property
    def normalises_by_batch(self) -> bool:
        """Whether measuring rows needs ``training``, the f of other rows; see `objective`."""
        return False

    def smoothness(self, problem: Problem) -> Smoothness | None:
        """The exact constants of the f_i; None where there are none."""
        return None

    def solution(self, problem: Problem) -> Solution:
        """A minimiser of f + R.

        Raises
        ------
        ConfigError
            If none can be computed.
        """
        raise ConfigError(
            f"fstar: no solver finds the minimum for model {problem.config.model}; give its value"
        )

    def accuracy(
        self, x: Tensor, features: Tensor, targets: Tensor, *, training: Objective | None = None
    ) -> float:
        """Share of rows that x classifies correctly; ``training`` as for `objective`."""
        return float(self.objective(features, targets, training=training).accuracy(x))
