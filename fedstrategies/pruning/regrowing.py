"""Settings of DSnoT and R2-DSnoT; the swaps themselves are in `regrow`.

How many swaps a row may make is part of the method: without the same-sign rule a row near its
threshold goes on exchanging weights to and fro until the number is used up, and the candidates get
worse each time. The published 50 are 1.2 % of a row of 4096. In a row of 64 they are most of it,
and what comes out is far worse than magnitude (docs/results/pruning.md). So shorter rows may make
the same share.

Source: as `fedstrategies.pruning.regrow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Literal

__all__ = ["Regrowing"]

_PUBLISHED, _OF_INPUTS = 50, 4096
"""Swaps, and the shortest rows of the models that they were published for (LLaMA-7B)."""


@dataclass(frozen=True, kw_only=True)
class Regrowing:
    """Settings; the defaults are DSnoT's.

    Attributes
    ----------
    cycles : int or None
        Most swaps in a row. None: the published 50 for rows of 4096 inputs and more, the same
        share of shorter ones, see `most_swaps`.
    threshold : float
        A row stops where ``|epsilon|`` is not above it.
    variance_power : float
        v.
    same_sign : bool
        A swap after which epsilon has not its first sign is not made, and the row stops. Then
        ``|epsilon|`` does not grow, but for n:m and for gammas above zero. With n:m that is always
        so, as in the authors' repository.
    exponent : float
        a, of the activations in the criterion for pruning.
    reweigh : {"none", "grow", "prune"}
        Which criterion has D.
    gamma_grow, gamma_prune : float
        Regularisation of the boundaries, 0 or more.
    p : float
        Of its norms.

    Raises
    ------
    ValueError
        If one is outside.
    """

    cycles: int | None = None
    threshold: float = 0.1
    variance_power: float = 1.0
    same_sign: bool = False
    exponent: float = 1.0
    reweigh: Literal["none", "grow", "prune"] = "none"
    gamma_grow: float = 0.0
    gamma_prune: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        if self.cycles is not None and self.cycles < 0:
            raise ValueError(f"cycles = {self.cycles}: expected a number that is 0 or more")
        for name in ("threshold", "variance_power", "exponent", "gamma_grow", "gamma_prune"):
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise ValueError(f"{name} = {value}: expected a number that is 0 or more")
        if not self.p >= 1.0:
            raise ValueError(f"p = {self.p}: a norm's p is at least 1")
        if self.reweigh not in ("none", "grow", "prune"):
            raise ValueError(f"reweigh = {self.reweigh!r} is not one of none, grow, prune")

    def most_swaps(self, inputs: int) -> int:
        """``cycles``, or ``min(50, ceil(50 inputs / 4096))``.

        Parameters
        ----------
        inputs : int
            Weights of a row.
        """
        if self.cycles is not None:
            return self.cycles
        return min(_PUBLISHED, ceil(_PUBLISHED * inputs / _OF_INPUTS))

    @classmethod
    def r2(
        cls,
        *,
        reweigh: Literal["none", "grow", "prune"] = "grow",
        exponent: float = 0.5,
        gamma_grow: float = 1e-4,
        gamma_prune: float = 1e-4,
    ) -> Regrowing:
        """R2-DSnoT: its three ingredients on, all else as DSnoT."""
        return cls(
            reweigh=reweigh, exponent=exponent, gamma_grow=gamma_grow, gamma_prune=gamma_prune
        )
