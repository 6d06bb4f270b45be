"""A line search that sees gradients only: a function value would be one more number to send.

For convex phi the slopes along the line say enough. ``phi(t) <= phi(0) + t phi'(t)``, so a point
with slope <= 0 is no higher than the start, and one with a slope much flatter than at the start
has used up what the direction has to give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["LineSearch"]

_TOO_STEEP = 0.9
_TOO_FAR = 0.3
_LONGEST = 10.0
_MARGIN = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class LineSearch:
    """A search from ``base`` along ``direction``; the next exchange is at `point`.

    Attributes
    ----------
    base, gradient, direction : Tensor
        z, grad phi(z) and a direction of descent p: shape (d,).
    step : float
        The trial step t.
    low, high : tuple of float or None
        Steps and slopes ``p^T grad phi(z + t p)`` before and behind the minimum on the line.
    blind : bool
        The first trial was a guess of no known scale: the secant may shorten it by any factor.
    """

    base: Tensor
    gradient: Tensor
    direction: Tensor
    step: float = 1.0
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    blind: bool = False

    @property
    def point(self) -> Tensor:
        """z + t p."""
        return self.base + self.step * self.direction

    @property
    def slope(self) -> float:
        """``p^T grad phi(z)``, negative."""
        return float(self.direction @ self.gradient)

    def advance(self, gradient: Tensor) -> LineSearch | None:
        """The search with the next trial, or None if the trial is accepted.

        Accepted: ``-0.9 |s| <= p^T grad phi(z + t p) <= 0.3 |s|``, s the slope at z. Otherwise
        the secant through the slopes says where to look, kept inside the bracket; without one
        the step at most grows tenfold.

        Parameters
        ----------
        gradient : Tensor
            grad phi at `point`, shape (d,).
        """
        start, slope = self.slope, float(self.direction @ gradient)
        if _TOO_STEEP * start <= slope <= -_TOO_FAR * start:
            return None
        low, high = self.low or (0.0, start), self.high
        if slope > 0:
            high = (self.step, slope)
        else:
            low = (self.step, slope)
        if self.blind and self.low is None and high is not None:
            return replace(self, step=_secant(low, high), low=low, high=high)
        return replace(
            self, step=_next_step(low, high, self.low or (0.0, start)), low=low, high=high
        )


def _next_step(
    low: tuple[float, float], high: tuple[float, float] | None, before: tuple[float, float]
) -> float:
    (left, left_slope) = low
    if high is not None:
        margin = _MARGIN * (high[0] - left)
        return min(max(_secant(low, high), left + margin), high[0] - margin)
    # Still descending: extrapolate from the last two points of the descent.
    rise = left_slope - before[1]
    longest = _LONGEST * left
    if rise <= 0:
        return longest
    return min(max(left - left_slope * (left - before[0]) / rise, 2 * left), longest)


def _secant(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Where the slope is zero if it is linear between the two."""
    return low[0] + (high[0] - low[0]) * low[1] / (low[1] - high[1])
