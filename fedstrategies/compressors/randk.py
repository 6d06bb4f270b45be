"""Rand-k: keep k coordinates chosen uniformly at random, scaled to be unbiased or not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.size import Size
from fedstrategies.compressors.values import Floats
from fedstrategies.random import sample_without_replacement

__all__ = ["RandK", "ScaledRandK"]


@dataclass(frozen=True, kw_only=True)
class _RandomSubset(Compressor):
    """The part the two have in common: the size and the draw."""

    k: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        _ = self._size

    @property
    def _size(self) -> Size:
        return Size(name="k", fraction_name="fraction", count=self.k, fraction=self.fraction)

    def kept(self, dimension: int) -> int:
        """k in dimension d; ValueError if k > d."""
        return self._size.of(dimension)

    def _select(self, vectors: Tensor, keys: Tensor) -> Payload:
        dimension = vectors.shape[1]
        k = self.kept(dimension)
        if k == dimension:
            return Payload(dimension=dimension, values=Floats(vectors))
        indices = sample_without_replacement(keys, dimension, k)
        return Payload(
            dimension=dimension,
            values=Floats(vectors.gather(1, indices)),
            indices=indices,
            keys=keys,
        )


@dataclass(frozen=True, kw_only=True)
class RandK(_RandomSubset):
    """Keep a uniform k-subset of the coordinates, times d/k.

    ``eta = 0, omega = d/k - 1, B = 1, M = d/k``, with equality at every x. The payload carries
    the keys, from which the receiver redraws the subset.

    Parameters
    ----------
    k : int, optional
        Number of entries kept.
    fraction : float, optional
        Share of the entries kept, ``k = max(1, round(fraction d))``. Give exactly one.

    Raises
    ------
    ValueError
        If not exactly one is given or it is out of range.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    The key decides which k entries are kept.

    >>> import torch
    >>> from fedstrategies import RandK
    >>> x = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    >>> RandK(k=2).compress(x, keys=torch.tensor([1])).dense()
    tensor([[ 0., -2.,  1.,  0.]])
    >>> RandK(k=1).constants(4).omega
    3.0
    """

    @property
    def spec(self) -> str:
        """``rand-k:k=5`` or ``rand-k:fraction=0.01``."""
        return f"rand-k:{self._size.option}"

    def constants(self, dimension: int) -> Constants:
        """``eta = 0, omega = d/k - 1, B = 1, M = d/k``; ValueError if k > d."""
        gain = dimension / self.kept(dimension)
        return Constants(eta=0.0, omega=gain - 1.0, second_moment=gain, selects=gain == 1.0)

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Draw the subset from ``keys``. ValueError if k > d."""
        payload = self._select(vectors, keys)
        if payload.indices is None:
            return payload
        gain = payload.dimension / payload.indices.shape[1]
        return Payload(
            dimension=payload.dimension,
            values=Floats(payload.values.to_tensor() * gain),
            indices=payload.indices,
            keys=payload.keys,
        )


@dataclass(frozen=True, kw_only=True)
class ScaledRandK(_RandomSubset):
    """Keep a uniform k-subset of the coordinates as they are: (k/d) times rand-k.

    ``eta = 1 - k/d, omega = (k/d)(1 - k/d), B = (k/d)^2, M = k/d``, with equality at every x;
    ``E||C(x) - x||^2 = (1 - k/d) ||x||^2``. The payload carries the keys, from which the
    receiver redraws the subset.

    Parameters
    ----------
    k : int, optional
        Number of entries kept.
    fraction : float, optional
        Share of the entries kept, ``k = max(1, round(fraction d))``. Give exactly one.

    Raises
    ------
    ValueError
        If not exactly one is given or it is out of range.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import ScaledRandK
    >>> x = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    >>> ScaledRandK(k=2).compress(x, keys=torch.tensor([1])).dense()
    tensor([[ 0.0000, -1.0000,  0.5000,  0.0000]])
    >>> ScaledRandK(k=1).constants(4).eta, ScaledRandK(k=1).constants(4).omega
    (0.75, 0.1875)
    """

    @property
    def spec(self) -> str:
        """``scaled-rand-k:k=5`` or ``scaled-rand-k:fraction=0.01``."""
        return f"scaled-rand-k:{self._size.option}"

    def constants(self, dimension: int) -> Constants:
        """``eta = 1 - k/d, omega = (k/d)(1 - k/d), B = (k/d)^2, M = k/d``; ValueError if k > d."""
        share = self.kept(dimension) / dimension
        return Constants(
            eta=1.0 - share,
            omega=share * (1.0 - share),
            mean_gain=share**2,
            second_moment=share,
            residual=1.0 - share,
            selects=True,
        )

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Draw the subset from ``keys``. ValueError if k > d."""
        return self._select(vectors, keys)
