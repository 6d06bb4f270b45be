"""Top-k: keep the k entries of largest magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.select import largest
from fedstrategies.compressors.size import Size
from fedstrategies.compressors.values import Floats

__all__ = ["TopK"]


@dataclass(frozen=True, kw_only=True)
class TopK(Compressor):
    """Keep the k largest magnitudes, ties by lowest index; zero elsewhere.

    ``eta = sqrt(1 - k/d), omega = 0, B = M = 1``; eta is attained where all magnitudes are
    equal.

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
    >>> from fedstrategies import TopK
    >>> x = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    >>> TopK(k=2).compress(x, keys=torch.tensor([0])).dense()
    tensor([[3., 0., 0., 2.]])
    >>> TopK(k=3).constants(4).eta
    0.5
    """

    k: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        _ = self._size

    @property
    def _size(self) -> Size:
        return Size(name="k", fraction_name="fraction", count=self.k, fraction=self.fraction)

    @property
    def spec(self) -> str:
        """``top-k:k=5`` or ``top-k:fraction=0.01``."""
        return f"top-k:{self._size.option}"

    def kept(self, dimension: int) -> int:
        """k in dimension d; ValueError if k > d."""
        return self._size.of(dimension)

    def constants(self, dimension: int) -> Constants:
        """``eta = sqrt(1 - k/d), omega = 0, B = M = 1``; ValueError if k > d."""
        residual = 1.0 - self.kept(dimension) / dimension
        return Constants(
            eta=sqrt(residual), omega=0.0, second_moment=1.0, residual=residual, selects=True
        )

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Select by magnitude; ``keys`` are not used. ValueError if k > d."""
        dimension = vectors.shape[1]
        k = self.kept(dimension)
        if k == dimension:
            return Payload(dimension=dimension, values=Floats(vectors))
        indices = largest(vectors, k)
        return Payload(
            dimension=dimension, values=Floats(vectors.gather(1, indices)), indices=indices
        )
