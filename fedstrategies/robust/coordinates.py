"""Aggregators that look at each coordinate by itself: the median and the trimmed mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedstrategies.robust.base import LEAST_PART, Numbers, check_share, numbers

__all__ = ["Median", "TrimmedMean"]

_CACHE_BYTES = 2**20
"""Of a strip of coordinates that is sorted at a time."""


@dataclass(frozen=True)
class Median:
    """The weighted median of each coordinate; between two middle values their mean.

    References
    ----------
    Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning" (2018).

    Examples
    --------
    Four vectors that agree, and one that lies.

    >>> import torch
    >>> from fedstrategies import Median
    >>> v = torch.tensor([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0], [1.5, 0.5], [100.0, -100.0]])
    >>> Median()(v, torch.ones(5))
    tensor([1.5000, 0.0000])
    """

    @property
    def spec(self) -> str:
        """``median``."""
        return "median"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""

        def median(values: Numbers, below: Numbers) -> Numbers:
            # The values at which half of the weight is reached, from below and from above.
            half, nearly = below[-1] / 2, below[-1] * LEAST_PART
            low = np.take_along_axis(
                values, np.argmax(below >= half - nearly, axis=0)[None], axis=0
            )[0]
            high = np.take_along_axis(
                values, np.argmax(below > half + nearly, axis=0)[None], axis=0
            )[0]
            middle: Numbers = np.where(low == high, low, low / 2 + high / 2)
            return middle

        return _by_coordinate(rows, weights, median)


@dataclass(frozen=True, kw_only=True)
class TrimmedMean:
    """Of each coordinate the mean of what is left without the smallest and the largest values.

    Attributes
    ----------
    share : float
        b in [0, 1/2): how much of the weight is cut off at either end. With m equal weights
        that is b m values at each, the last of them in part where b m is no whole number.

    Raises
    ------
    ValueError
        If the share is outside.

    References
    ----------
    Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning" (2018).

    Examples
    --------
    Four vectors that agree, and one that lies.

    >>> import torch
    >>> from fedstrategies import TrimmedMean
    >>> v = torch.tensor([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0], [1.5, 0.5], [100.0, -100.0]])
    >>> TrimmedMean(share=0.2)(v, torch.ones(5))
    tensor([1.5000, 0.1667])
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        check_share(self.share)

    @property
    def spec(self) -> str:
        """``trimmed-mean:share=...``."""
        return f"trimmed-mean:share={self.share!r}"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""

        def trimmed(values: Numbers, below: Numbers) -> Numbers:
            total = below[-1]
            first, last = self.share * total, total - self.share * total
            inside = below.clip(first, last)
            kept = np.diff(inside, axis=0, prepend=first[None])
            # A value that only rounding leaves a part of is cut off: it may be the faulty one.
            kept[kept < LEAST_PART * (last - first)] = 0.0
            # What is cut off may be as large as it likes: it must not meet a weight of zero.
            sound = np.where(kept > 0, values, 0.0)
            least = np.min(np.where(kept > 0, values, np.inf), axis=0)
            # From the smallest on, so that equal values give just that value.
            mean: Numbers = np.add.reduce((sound - least) * kept, axis=0)
            mean = least + mean / np.add.reduce(kept, axis=0)
            return mean

        return _by_coordinate(rows, weights, trimmed)


def _by_coordinate(
    rows: Tensor, weights: Tensor, of: Callable[[Numbers, Numbers], Numbers]
) -> Tensor:
    """``of`` the values of each coordinate in ascending order, and the weight up to each."""
    vectors, own = numbers(rows), numbers(weights)
    result = np.empty(vectors.shape[1])
    together = max(1, _CACHE_BYTES // (8 * len(vectors)))
    for start in range(0, vectors.shape[1], together):
        strip = vectors[:, start : start + together]
        order = np.argsort(strip, axis=0, kind="stable")
        below = np.cumsum(own[order], axis=0)
        result[start : start + together] = of(np.take_along_axis(strip, order, axis=0), below)
    return torch.from_numpy(result).to(rows.dtype)
