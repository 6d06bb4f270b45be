"""What this room's strategies share: a sampling of any law, and the weights that undo it."""

from __future__ import annotations

from math import fsum
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedstrategies.compressors import Floats
from fedstrategies.flower import BaseStrategy, Delivery
from fedstrategies.objectives import Smoothness

__all__ = ["ImportanceStrategy", "dense_rows"]


class ImportanceStrategy(BaseStrategy):
    """Base of strategies that weight client i by ``1/(n p_i)``, so that means are unbiased.

    Parameters
    ----------
    smoothness : Smoothness or None
        L_i and mu_i of the f_i, where known.
    **base
        See `fedstrategies.flower.BaseStrategy`.
    """

    any_sampling: ClassVar[bool] = True
    no_aggregator: ClassVar[str] = ""

    def __init__(self, *, smoothness: Smoothness | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.smoothness = smoothness
        self.importance = torch.empty(0, dtype=torch.float64)
        """``1/(n p_i)`` of each partition, shape (n,); known once the first round begins."""

    def prepare(self, x: Tensor) -> None:
        """Fix the weights.

        Raises
        ------
        ValueError
            If there is an ``aggregator`` and the weights differ.
        """
        sampling = self.sampling_of(self.clients)
        sampling.size(self.clients)
        self.importance = 1 / (self.clients * sampling.inclusion_probabilities(self.clients))
        # Exactly equal they need not be: probabilities are sums.
        if self.aggregator is not None and not torch.allclose(
            self.importance, self.importance[0], rtol=1e-9, atol=0.0
        ):
            raise ValueError(
                f"aggregator: not with {type(sampling).__name__}: its weights 1/(n p_i) give rare "
                "clients more than a minority's part; take full or nice sampling"
            )

    def cohort_smoothness(self, members: Tensor, weights: Tensor) -> float | None:
        """``L_C = sum_{i in C} L_i/(n p_i)``; None where the L_i are not known."""
        known = self.smoothness
        if known is None or known.L_i is None:
            return None
        local = known.L_i
        shares = zip(members.tolist(), weights.tolist(), strict=True)
        return fsum(weight * local[i] for i, weight in shares)

    def local_constants(self, who: str) -> tuple[float, ...]:
        """The L_i.

        Raises
        ------
        ValueError
            If they are not known; ``who`` needs them.
        """
        known = self.smoothness
        if known is None or known.L_i is None:
            raise ValueError(
                f"{who} needs L_i for its step size; give smoothness=Smoothness(...) with L_i, or "
                "a step size"
            )
        return known.L_i


def dense_rows(delivery: Delivery) -> Tensor:
    """The uploads of a delivery as they are: shape (C, d)."""
    values = delivery.payload.values
    assert isinstance(values, Floats)
    return values.to_tensor()
