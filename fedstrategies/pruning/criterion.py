"""What makes a weight worth keeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedstrategies.pruning.activations import ActivationStatistics

__all__ = ["Criterion", "LayerCriterion", "Magnitude"]


class Criterion(Protocol):
    """Scores of the entries of one weight; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """Its name as the command line writes it."""

    def scores(self, weight: Tensor, *, name: str) -> Tensor:
        """How much each entry matters: the largest are kept.

        Parameters
        ----------
        weight : Tensor
            Any shape, outputs along the first axis (as torch stores it).
        name : str
            The entry's name in the layout, for criteria that hold statistics of each layer.

        Returns
        -------
        Tensor
            Floating-point, same shape, finite and not negative.
        """


class LayerCriterion(Criterion, Protocol):
    """A criterion that may look at the activations of the layer it scores.

    Without them it is a `Criterion` as any; those that cannot do without raise.
    """

    @property
    def needs_activations(self) -> bool:
        """Whether ``statistics`` must be given."""

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `Criterion.scores`.

        Parameters
        ----------
        weight : Tensor
            Outputs along the first axis.
        name : str
            The layer's.
        statistics : ActivationStatistics or None
            Of the layer.

        Raises
        ------
        ValueError
            If statistics are needed and missing, or do not fit the weight.
        """


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """``|w|``."""

    @property
    def needs_activations(self) -> bool:
        """No."""
        return False

    @property
    def spec(self) -> str:
        """``magnitude``."""
        return "magnitude"

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `Criterion.scores`."""
        return weight.abs()
