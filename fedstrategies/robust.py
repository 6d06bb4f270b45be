"""Means that a minority of arbitrary vectors cannot move far: robust aggregators.

Of m vectors with weights w_i, up to a share b < 1/2 of which (by weight) is *faulty*, that is
arbitrary, finite or not to be trusted, an aggregator gives one vector:

==================  ==========================================================  =================
name                value                                                       endures
==================  ==========================================================  =================
median              the weighted median of each coordinate                      b < 1/2
trimmed-mean        of each coordinate, the mean without the share b of the     its ``share``
                    weight at either end
geometric-median    ``argmin_z sum_i w_i ||z - v_i||``, by smoothed Weiszfeld   b < 1/2
krum                the mean of the q vectors nearest to their neighbours       its ``share``
==================  ==========================================================  =================

None of them is the mean where honest clients differ: even without faults they move the fixed point
of a method, by no more than the honest vectors are apart. Where all vectors are the same, all give
that vector. The order of the rows does not matter but for rounding (of sums, and of equal scores).

Everything is in float64 and by coordinate or by row, so that the bits do not depend on threads.

Sources: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning" (2018): median
and trimmed mean; Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning" (2022):
geometric median by smoothed Weiszfeld; Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine
Learning with Adversaries" (2017): Krum and multi-Krum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, isfinite
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "GeometricMedian",
    "Krum",
    "Median",
    "TrimmedMean",
    "parse_aggregator",
]

_CACHE_BYTES = 2**20
"""Of a strip of coordinates that is sorted at a time."""

_LEAST_PART = 1e-9
"""Share of a weight: what is less is a rounding error."""

_Numbers: TypeAlias = npt.NDArray[np.float64]


@runtime_checkable
class Aggregator(Protocol):
    """A pure function of vectors and weights; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """The aggregator as `parse_aggregator` reads it."""

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """One vector in place of ``sum_i w_i v_i / sum_i w_i``.

        Parameters
        ----------
        rows : Tensor
            v_i, shape (m, d), m >= 1, on the CPU.
        weights : Tensor
            w_i > 0, shape (m,).

        Returns
        -------
        Tensor
            Shape (d,), dtype of ``rows``.
        """


@dataclass(frozen=True)
class Median:
    """The weighted median of each coordinate; between two middle values their mean."""

    @property
    def spec(self) -> str:
        """``median``."""
        return "median"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""

        def median(values: _Numbers, below: _Numbers) -> _Numbers:
            # The values at which half of the weight is reached, from below and from above.
            half, nearly = below[-1] / 2, below[-1] * _LEAST_PART
            low = np.take_along_axis(
                values, np.argmax(below >= half - nearly, axis=0)[None], axis=0
            )[0]
            high = np.take_along_axis(
                values, np.argmax(below > half + nearly, axis=0)[None], axis=0
            )[0]
            middle: _Numbers = np.where(low == high, low, low / 2 + high / 2)
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
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        _check_share(self.share)

    @property
    def spec(self) -> str:
        """``trimmed-mean:share=...``."""
        return f"trimmed-mean:share={self.share!r}"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""

        def trimmed(values: _Numbers, below: _Numbers) -> _Numbers:
            total = below[-1]
            first, last = self.share * total, total - self.share * total
            inside = below.clip(first, last)
            kept = np.diff(inside, axis=0, prepend=first[None])
            # A value that only rounding leaves a part of is cut off: it may be the faulty one.
            kept[kept < _LEAST_PART * (last - first)] = 0.0
            # What is cut off may be as large as it likes: it must not meet a weight of zero.
            sound = np.where(kept > 0, values, 0.0)
            least = np.min(np.where(kept > 0, values, np.inf), axis=0)
            # From the smallest on, so that equal values give just that value.
            mean: _Numbers = np.add.reduce((sound - least) * kept, axis=0)
            mean = least + mean / np.add.reduce(kept, axis=0)
            return mean

        return _by_coordinate(rows, weights, trimmed)


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
        vectors, own = _numbers(rows), _numbers(weights)
        point = _numbers(Median()(torch.from_numpy(vectors), weights))
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

    The score of a vector is the sum of its squared distances to the m - f - 2 nearest others,
    ``f = floor(share m)``. Scores do not look at weights; the mean of those that are chosen does.

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
    """

    share: float = 0.2
    selected: int = 1

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.selected < 1:
            raise ValueError(f"selected = {self.selected}: at least one vector is needed")

    @property
    def spec(self) -> str:
        """``krum:share=...,selected=...``."""
        return f"krum:share={self.share!r},selected={self.selected}"

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """See `Aggregator`."""
        vectors, own = _numbers(rows), _numbers(weights)
        count = len(vectors)
        faulty = floor(self.share * count)
        nearest = max(1, count - faulty - 2)
        with np.errstate(over="ignore"):
            apart = np.stack([_distances(vectors, one) for one in vectors]) ** 2
            # A vector is no neighbour of its own.
            apart[np.arange(count), np.arange(count)] = np.inf
            scores = np.add.reduce(np.sort(apart, axis=1)[:, : min(nearest, count - 1)], axis=1)
        chosen = np.sort(np.argsort(scores, kind="stable")[: min(self.selected, count - faulty)])
        shares = own[chosen] / np.add.reduce(own[chosen])
        first = vectors[chosen[0]]
        mean = first + _combined(vectors[chosen] - first, shares)
        return torch.from_numpy(mean).to(rows.dtype)


AGGREGATORS: Mapping[str, Callable[..., Aggregator]] = {
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
    "krum": Krum,
}
"""The aggregators by name."""

_SETTINGS: Mapping[str, Mapping[str, type]] = {
    "median": {},
    "trimmed-mean": {"share": float},
    "geometric-median": {"smoothing": float, "steps": int},
    "krum": {"share": float, "selected": int},
}


def parse_aggregator(text: str) -> Aggregator:
    """``median``, ``trimmed-mean[:share=..]``, ``geometric-median[:..]``, ``krum[:share=..,..]``.

    Raises
    ------
    ValueError
        If the text is none of these, or a setting is not a number in its range.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in AGGREGATORS:
        raise ValueError(f"{text!r}: the aggregators are {', '.join(AGGREGATORS)}")
    settings: dict[str, float | int] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        kind = _SETTINGS[name].get(key)
        if kind is None or key in settings:
            known = ", ".join(_SETTINGS[name]) or "none"
            raise ValueError(f"{text!r}: {part!r}; the settings of {name} are: {known}")
        try:
            settings[key] = kind(value)
        except ValueError:
            raise ValueError(f"{text!r}: {key} = {value!r} is not a number") from None
    return AGGREGATORS[name](**settings)


def _check_share(share: float) -> None:
    if not 0.0 <= share < 0.5:
        raise ValueError(
            f"share = {share} is outside [0, 1/2): no mean endures half of its clients"
        )


def _numbers(values: Tensor) -> _Numbers:
    found: _Numbers = values.detach().to(torch.float64).numpy()
    return found


def _by_coordinate(
    rows: Tensor, weights: Tensor, of: Callable[[_Numbers, _Numbers], _Numbers]
) -> Tensor:
    """``of`` the values of each coordinate in ascending order, and the weight up to each."""
    vectors, own = _numbers(rows), _numbers(weights)
    result = np.empty(vectors.shape[1])
    together = max(1, _CACHE_BYTES // (8 * len(vectors)))
    for start in range(0, vectors.shape[1], together):
        strip = vectors[:, start : start + together]
        order = np.argsort(strip, axis=0, kind="stable")
        below = np.cumsum(own[order], axis=0)
        result[start : start + together] = of(np.take_along_axis(strip, order, axis=0), below)
    return torch.from_numpy(result).to(rows.dtype)


def _distances(vectors: _Numbers, point: _Numbers) -> _Numbers:
    """``||v_i - z||`` of each row, one after the other: shape (m,)."""
    with np.errstate(over="ignore"):
        return np.sqrt([np.add.reduce((one - point) ** 2) for one in vectors])


def _combined(vectors: _Numbers, shares: _Numbers) -> _Numbers:
    """``sum_i c_i v_i`` over the rows with a part, in their order."""
    total = np.zeros(vectors.shape[1])
    for one, share in zip(vectors, shares, strict=True):
        if share > 0.0:
            total += share * one
    return total
