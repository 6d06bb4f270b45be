"""Aggregators that look at the distances between vectors: the geometric median and Krum."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, isfinite

import numpy as np
import torch
from torch import Tensor

from fedstrategies.robust.base import LEAST_PART, Numbers, check_share, numbers
from fedstrategies.robust.coordinates import Median

__all__ = ["GeometricMedian", "Krum"]


@dataclass(frozen=True, kw_only=True)
class GeometricMedian:
    """``argmin_z sum_i w_i ||z - v_i||``, by Weiszfeld's iteration from the median.

    ``z <- sum_i c_i v_i / sum_i c_i`` with ``c_i = w_i / max(smoothing, ||z - v_i||)``. If less
    than half of the weight is faulty and the honest vectors are within r of a point, the result
    is within ``2 (1 - b)/(1 - 2 b) r`` of it, plus a term as small as ``smoothing``.

    Attributes
    ----------
    smoothing : float
        Distance below which vectors count as equally near, > 0; keeps the iteration away from
        division by zero.
    steps : int
        Iterations at most; it stops before if z moves by less than ``smoothing``.

    Raises
    ------
    ValueError
        If a number is not positive.

    References
    ----------
    Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning" (2022).

    Examples
    --------
    Four vectors that agree, and one that lies.

    >>> import torch
    >>> from fedstrategies import GeometricMedian
    >>> v = torch.tensor([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0], [1.5, 0.5], [100.0, -100.0]])
    >>> GeometricMedian()(v, torch.ones(5))
    tensor([1.4628, 0.2172])
    """

    smoothing: float = 1e-9
    steps: int = 200

    def __post_init__(self) -> None:
        if not (isfinite(self.smoothing) and self.smoothing > 0) or self.steps < 1:
            raise ValueError(
                f"smoothing = {self.smoothing} and steps = {self.steps} must be positive"
            )

    @property
    def spec(self) -> str:
        """``geometric-median:smoothing=...,steps=...``."""
        return f"geometric-median:smoothing={self.smoothing!r},steps={self.steps}"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""
        vectors, own = numbers(rows), numbers(weights)
        point = numbers(Median()(torch.from_numpy(vectors), weights))
        for _ in range(self.steps):
            shares = own / np.maximum(_distances(vectors, point), self.smoothing)
            # Rows beyond float64's squares have distance infinity and no part.
            moved = _combined(vectors - point, shares / np.add.reduce(shares))
            point = point + moved
            if float(_distances(moved[None], np.zeros_like(moved))[0]) < self.smoothing:
                break
        return torch.from_numpy(point).to(rows.dtype)


@dataclass(frozen=True, kw_only=True)
class Krum:
    """The mean of the vectors with the smallest scores.

    The score of a vector is the sum of its squared distances to the n nearest others,

        f = floor(share m),   n = max(m - f - 2, f, 1).

    Vectors count by number here, not by weight: at most f of the m may be faulty. Weights are
    those of the mean of the chosen. n is Krum's m - f - 2 for all m but 2 f + 1, where it
    would be f - 1 and f equal liars would have score zero.

    With 0 < f < m/2 faulty vectors, if the honest ones are within r of a point, every chosen
    vector, and so the result, is within ``r + 2 r sqrt(n / (n - f + 1))`` of it. An honest
    vector has m - f - 1 >= n honest others, so its score is at most ``4 n r^2``, and the q-th
    smallest score is no larger where q <= m - f. A liar has f - 1 others like it, so n - f + 1 of
    its n neighbours are honest, and the nearest of those is within ``2 r sqrt(n / (n - f + 1))``.

    Attributes
    ----------
    share : float
        b in [0, 1/2).
    selected : int
        q >= 1: 1 is Krum, more is multi-Krum. At most m - f are taken.

    Raises
    ------
    ValueError
        If a number is outside.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries" (2017).

    Examples
    --------
    Four vectors that agree, and one that lies.

    >>> import torch
    >>> from fedstrategies import Krum
    >>> v = torch.tensor([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0], [1.5, 0.5], [100.0, -100.0]])
    >>> Krum(share=0.2)(v, torch.ones(5))
    tensor([1.0000, 0.5000])
    """

    share: float = 0.2
    selected: int = 1

    def __post_init__(self) -> None:
        check_share(self.share)
        if self.selected < 1:
            raise ValueError(f"selected = {self.selected}: at least one vector is needed")

    @property
    def spec(self) -> str:
        """``krum:share=...,selected=...``."""
        return f"krum:share={self.share!r},selected={self.selected}"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""
        vectors, own = numbers(rows), numbers(weights)
        count = len(vectors)
        # 0.29 of 100 is 29 vectors, and a share just below 1/2 is not half of them.
        faulty = min(floor(self.share * count * (1 + LEAST_PART)), (count - 1) // 2)
        nearest = min(max(count - faulty - 2, faulty, 1), count - 1)
        with np.errstate(over="ignore"):
            apart = np.stack([_distances(vectors, one) for one in vectors]) ** 2
            # A vector is no neighbour of its own.
            apart[np.arange(count), np.arange(count)] = np.inf
            scores = np.add.reduce(np.sort(apart, axis=1)[:, :nearest], axis=1)
        chosen = np.sort(np.argsort(scores, kind="stable")[: min(self.selected, count - faulty)])
        shares = own[chosen] / np.add.reduce(own[chosen])
        first = vectors[chosen[0]]
        mean = first + _combined(vectors[chosen] - first, shares)
        return torch.from_numpy(mean).to(rows.dtype)


def _distances(vectors: Numbers, point: Numbers) -> Numbers:
    """``||v_i - z||`` of each row, one after the other: shape (m,)."""
    with np.errstate(over="ignore"):
        return np.sqrt([np.add.reduce((one - point) ** 2) for one in vectors])


def _combined(vectors: Numbers, shares: Numbers) -> Numbers:
    """``sum_i c_i v_i`` over the rows with a part, in their order."""
    total = np.zeros(vectors.shape[1])
    for one, share in zip(vectors, shares, strict=True):
        if share > 0.0:
            total += share * one
    return total
