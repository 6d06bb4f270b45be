"""Which zeros a mask may have: a number in each row or matrix, or n of m consecutive inputs.

Counts are exact, and among equal scores the lowest index is kept, as everywhere in this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from fedstrategies.compressors.select import largest

__all__ = ["Pattern", "SemiStructured", "Unstructured"]


class Pattern(Protocol):
    """A law of masks over scores; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """The pattern as the command line writes it."""

    @property
    def sparsity(self) -> float:
        """Share of the weights that is removed, but for rounding."""

    def mask(self, scores: Tensor) -> Tensor:
        """What is kept.

        Parameters
        ----------
        scores : Tensor
            Shape (out, in), floating-point, finite and not negative.

        Returns
        -------
        Tensor
            bool, shape (out, in): True where the weight stays.

        Raises
        ------
        ValueError
            If the scores are no such matrix, or the shape does not admit the pattern.
        """


@dataclass(frozen=True, kw_only=True)
class Unstructured:
    """The ``int(sparsity * size)`` lowest scores of each output row, or of the matrix, go.

    Attributes
    ----------
    sparsity : float
        In [0, 1].
    per : {"row", "matrix"}
        What is compared with one another.

    Raises
    ------
    ValueError
        If the sparsity is outside.
    """

    sparsity: float
    per: Literal["row", "matrix"] = "row"

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity <= 1.0:
            raise ValueError(f"sparsity = {self.sparsity}: a share is between 0 and 1")

    @property
    def spec(self) -> str:
        """The sparsity."""
        return f"{self.sparsity:g}"

    def mask(self, scores: Tensor) -> Tensor:
        """See `Pattern.mask`."""
        _check(scores)
        lines = scores.reshape(1, -1) if self.per == "matrix" else scores
        kept = lines.shape[1] - int(self.sparsity * lines.shape[1])
        return _best(lines, kept).view(scores.shape)


@dataclass(frozen=True, kw_only=True)
class SemiStructured:
    """n:m: of every m consecutive inputs of an output, the n with the highest scores stay.

    Attributes
    ----------
    kept, of : int
        n and m, ``1 <= n < m``.

    Raises
    ------
    ValueError
        If they are not.
    """

    kept: int = 2
    of: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.kept < self.of:
            raise ValueError(f"pattern {self.kept}:{self.of}: n:m keeps n of m, 1 <= n < m")

    @property
    def spec(self) -> str:
        """``n:m``."""
        return f"{self.kept}:{self.of}"

    @property
    def sparsity(self) -> float:
        """``1 - n/m``."""
        return 1.0 - self.kept / self.of

    def mask(self, scores: Tensor) -> Tensor:
        """See `Pattern.mask`."""
        _check(scores)
        if scores.shape[1] % self.of:
            raise ValueError(
                f"{scores.shape[1]} inputs are no multiple of {self.of}: "
                f"the pattern {self.spec} does not fit"
            )
        return _best(scores.reshape(-1, self.of), self.kept).view(scores.shape)


def _check(scores: Tensor) -> None:
    if scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} and {scores.dtype}; "
            "expected floating-point of (out, in)"
        )
    if not bool(((scores >= 0) & torch.isfinite(scores)).all()):
        raise ValueError("a score is negative or not finite")


def _best(lines: Tensor, kept: int) -> Tensor:
    """Mask of the ``kept`` highest scores of each line."""
    mask = torch.zeros(lines.shape, dtype=torch.bool, device=lines.device)
    if kept and lines.numel():
        # Adding zero turns -0.0 into 0.0; half precision converts without loss.
        scores = (lines if lines.dtype == torch.float64 else lines.float()) + 0.0
        mask.scatter_(1, largest(scores, kept), True)
    return mask
