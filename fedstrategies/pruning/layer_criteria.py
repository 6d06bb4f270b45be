"""The criteria of post-training pruning, as settings: the scores are in `scores`.

A weight with more than two axes (a convolution) is scored as the matrix of its outputs by all
else; its inputs are then the channels at each place of its window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.norms import Subsets
from fedstrategies.pruning.scores import (
    relative_importance,
    ria_scores,
    stochria_scores,
    symmetric_scores,
    symwanda_scores,
)

__all__ = ["RIA", "RelativeImportance", "StochRIA", "SymWanda", "Symmetric", "Wanda"]


@dataclass(frozen=True, kw_only=True)
class Wanda:
    """``|W_kj| ||X_:j||_2``: SymWanda with Y = 0.

    Source: Sun et al., "A simple and effective pruning approach for large language models".
    """

    @property
    def spec(self) -> str:
        """``wanda``."""
        return "wanda"

    @property
    def needs_activations(self) -> bool:
        """Yes."""
        return True

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `LayerCriterion.scores`."""
        norms = _given(statistics, weight, name, self.spec).input_norms
        return symwanda_scores(weight.flatten(1), input_norms=norms).view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class SymWanda:
    """``|W_kj| (||X_:j||_2 + ||Z_:k||_2)``, X the layer's inputs and Z = X W^T its outputs.

    Which Y the publication uses in practice is not known here; outputs are the one matrix with a
    row for each output unit that calibration has anyway (``Y = Z^T``).

    Attributes
    ----------
    side : {"both", "output"}
        ``output``: X = 0, output-side Wanda.
    """

    side: Literal["both", "output"] = "both"

    @property
    def spec(self) -> str:
        """``symwanda`` or ``output-wanda``."""
        return "symwanda" if self.side == "both" else "output-wanda"

    @property
    def needs_activations(self) -> bool:
        """Yes."""
        return True

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `LayerCriterion.scores`."""
        given = _given(statistics, weight, name, self.spec)
        return symwanda_scores(
            weight.flatten(1),
            input_norms=given.input_norms if self.side == "both" else None,
            output_norms=given.output_norms,
        ).view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class Symmetric:
    """``|W_kj| (||W_:j||_2 + ||W_k:||_2)``: needs no data."""

    @property
    def spec(self) -> str:
        """``symmetric``."""
        return "symmetric"

    @property
    def needs_activations(self) -> bool:
        """No."""
        return False

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `LayerCriterion.scores`."""
        return symmetric_scores(weight.flatten(1)).view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class RelativeImportance:
    """``|W_kj| / ||W_:j||_p + |W_kj| / ||W_k:||_p``: needs no data.

    Attributes
    ----------
    p : float
        Of the norms: at least 1, or infinity.

    Raises
    ------
    ValueError
        If p is below 1.
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        _check(p=self.p)

    @property
    def spec(self) -> str:
        """``ri`` with its options."""
        return f"ri:p={self.p!r}"

    @property
    def needs_activations(self) -> bool:
        """No."""
        return False

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `LayerCriterion.scores`."""
        return relative_importance(weight.flatten(1), p=self.p).view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class RIA:
    """``RI_kj ||X_:j||_2^a``.

    Attributes
    ----------
    exponent : float
        a >= 0.
    p : float
        Of the norms: at least 1, or infinity.

    Raises
    ------
    ValueError
        If one is outside.
    """

    exponent: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(p=self.p, exponent=self.exponent)

    @property
    def spec(self) -> str:
        """``ria`` with its options."""
        return f"ria:exponent={self.exponent!r},p={self.p!r}"

    @property
    def needs_activations(self) -> bool:
        """Yes."""
        return True

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `LayerCriterion.scores`."""
        norms = _given(statistics, weight, name, self.spec).input_norms
        scores = ria_scores(weight.flatten(1), input_norms=norms, exponent=self.exponent, p=self.p)
        return scores.view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class StochRIA:
    """RIA with the norms of random subsets.

    Attributes
    ----------
    subsets : Subsets
        Share beta, seed.
    activations : bool
        Multiply by ``||X_:j||_2^a``. False: the publication's formula, RI on subsets.
    exponent : float
        a >= 0.
    p : float
        Of the norms: at least 1, or infinity.

    Raises
    ------
    ValueError
        If one is outside.
    """

    subsets: Subsets = field(default_factory=lambda: Subsets(share=0.1))
    activations: bool = True
    exponent: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        _check(p=self.p, exponent=self.exponent)

    @property
    def spec(self) -> str:
        """``stochria`` with its options, or ``stochri`` without activations."""
        drawn = f"share={self.subsets.share!r},seed={self.subsets.seed}"
        drawn += ",shared=yes" if self.subsets.shared else ""
        if not self.activations:
            return f"stochri:{drawn},p={self.p!r}"
        return f"stochria:{drawn},exponent={self.exponent!r},p={self.p!r}"

    @property
    def needs_activations(self) -> bool:
        """Whether they are multiplied by."""
        return self.activations

    def scores(
        self, weight: Tensor, *, name: str, statistics: ActivationStatistics | None = None
    ) -> Tensor:
        """See `LayerCriterion.scores`."""
        norms = None
        if self.activations:
            norms = _given(statistics, weight, name, self.spec).input_norms
        return stochria_scores(
            weight.flatten(1),
            subsets=self.subsets,
            name=name,
            input_norms=norms,
            exponent=self.exponent,
            p=self.p,
        ).view(weight.shape)


def _check(*, p: float, exponent: float = 0.0) -> None:
    if not p >= 1.0:
        raise ValueError(f"p = {p}: a norm's p is at least 1")
    if not 0.0 <= exponent < float("inf"):
        raise ValueError(f"exponent = {exponent}: that of the activations is 0 or more")


def _given(
    statistics: ActivationStatistics | None, weight: Tensor, name: str, spec: str
) -> ActivationStatistics:
    if statistics is None:
        raise ValueError(f"{spec} needs the activations of {name!r}; calibrate the layer first")
    found = len(statistics.output_squares), len(statistics.input_squares)
    if weight.flatten(1).shape != found:
        raise ValueError(
            f"{name!r}: activations of {len(statistics.input_squares)} inputs and "
            f"{len(statistics.output_squares)} outputs for a weight of {tuple(weight.shape)}"
        )
    return statistics
