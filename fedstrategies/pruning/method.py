"""Methods of post-training pruning: a criterion, what it compares, and perhaps swaps."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.criterion import LayerCriterion
from fedstrategies.pruning.patterns import Pattern, Unstructured
from fedstrategies.pruning.regrow import regrow
from fedstrategies.pruning.regrowing import Regrowing

__all__ = ["Per", "PruningMethod"]

Per = Literal["row", "matrix"]
"""What an unstructured mask compares with one another."""


@dataclass(frozen=True, kw_only=True)
class PruningMethod:
    """How the mask of one layer is found.

    Attributes
    ----------
    criterion : LayerCriterion
        Scores; the highest stay.
    per : {"row", "matrix"}
        What an unstructured mask compares with one another.
    regrowing : Regrowing or None
        Swaps after the mask; None: none.
    fixed : str
        Shell pattern of layers that keep their first mask; empty: none does. The authors of DSnoT
        leave feed-forward layers so.
    """

    criterion: LayerCriterion
    per: Per = "row"
    regrowing: Regrowing | None = None
    fixed: str = ""

    @property
    def needs_activations(self) -> bool:
        """Whether calibration data are needed."""
        return self.criterion.needs_activations or self.regrowing is not None

    def pattern(self, pattern: Pattern) -> Pattern:
        """The pattern with this method's rule of comparison."""
        if isinstance(pattern, Unstructured):
            return Unstructured(sparsity=pattern.sparsity, per=self.per)
        return pattern

    def mask(
        self,
        weight: Tensor,
        pattern: Pattern,
        *,
        name: str,
        statistics: ActivationStatistics | None = None,
    ) -> Tensor:
        """What is kept of one layer.

        Parameters
        ----------
        weight : Tensor
            Dense, shape (out, in).
        pattern : Pattern
            Of the zeros; its rule of comparison is replaced by this method's.
        name : str
            The layer's.
        statistics : ActivationStatistics or None
            Of the layer.

        Returns
        -------
        Tensor
            bool, shape (out, in).

        Raises
        ------
        ValueError
            If statistics are needed and missing, or something does not fit.
        """
        pattern = self.pattern(pattern)
        mask = pattern.mask(self.criterion.scores(weight, name=name, statistics=statistics))
        if self.regrowing is None or fnmatchcase(name, self.fixed):
            return mask
        if statistics is None:
            raise ValueError(f"swaps need the activations of {name!r}; calibrate the layer first")
        swapped = regrow(
            weight, mask, statistics=statistics, pattern=pattern, settings=self.regrowing
        )
        return swapped.mask
