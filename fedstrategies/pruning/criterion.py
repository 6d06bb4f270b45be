"""What makes a weight worth keeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Criterion", "Magnitude"]


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


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """``|w|``."""

    @property
    def spec(self) -> str:
        """``magnitude``."""
        return "magnitude"

    def scores(self, weight: Tensor, *, name: str) -> Tensor:
        """See `Criterion.scores`."""
        return weight.abs()
