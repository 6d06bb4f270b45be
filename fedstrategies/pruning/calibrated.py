"""A criterion of post-training pruning as P_i of FedP3: its activations are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.criterion import LayerCriterion

__all__ = ["Calibrated"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """A criterion together with the activations of the layers it will score.

    Attributes
    ----------
    criterion : LayerCriterion
        Such as `Wanda` or `RIA`.
    statistics : mapping of str to ActivationStatistics
        By the name of the weight in the layout (``fc1.weight``), as `calibrate` gives them for
        the layers (``fc1``). Weights that are missing are scored by ``fallback``, and so are
        those of which the activations say nothing, because all scores are zero.
    fallback : LayerCriterion
        For weights without activations, such as convolutions; must need none.

    Raises
    ------
    ValueError
        If the fallback needs activations.
    """

    criterion: LayerCriterion
    statistics: Mapping[str, ActivationStatistics]
    fallback: LayerCriterion

    def __post_init__(self) -> None:
        if self.fallback.needs_activations:
            raise ValueError(f"fallback {self.fallback.spec} needs activations itself")

    @property
    def spec(self) -> str:
        """That of the criterion, calibrated."""
        return f"calibrated {self.criterion.spec}"

    def scores(self, weight: Tensor, *, name: str) -> Tensor:
        """See `Criterion.scores`."""
        known = self.statistics.get(name)
        if known is None:
            return self.fallback.scores(weight, name=name)
        scores = self.criterion.scores(weight, name=name, statistics=known)
        return scores if bool(scores.any()) else self.fallback.scores(weight, name=name)
