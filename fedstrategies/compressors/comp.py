"""Comp-(k, k'): k random ones of the k' largest entries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.randk import RandK
from fedstrategies.compressors.select import largest
from fedstrategies.compressors.size import Size
from fedstrategies.compressors.topk import TopK
from fedstrategies.compressors.values import Floats
from fedstrategies.random import sample_without_replacement

__all__ = ["CompK"]


@dataclass(frozen=True, kw_only=True)
class CompK(Compressor):
    """Keep a uniform k-subset of the k' largest magnitudes, times k'/k: rand-k after top-k'.

    ``eta = sqrt((d-k')/d), omega = (k'-k)/k, B = 1, M = k'/k``: eta is attained where all
    magnitudes are equal, omega and M where x has at most k' entries. In general neither
    unbiased nor contractive. k = k' is top-k, k' = d rand-k.

    Parameters
    ----------
    k : int, optional
        Number of entries kept.
    k_prime : int, optional
        k', the number of largest entries among which they are drawn, ``k <= k'``.
    fraction, fraction_prime : float, optional
        The same as shares of d. Give exactly one of each pair.

    Raises
    ------
    ValueError
        If not exactly one of a pair is given, one is out of range, or k > k'.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    One of the two largest entries, times two.

    >>> import torch
    >>> from fedstrategies import CompK
    >>> x = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    >>> CompK(k=1, k_prime=2).compress(x, keys=torch.tensor([1])).dense()
    tensor([[0., 0., 0., 4.]])
    >>> CompK(k=1, k_prime=2).constants(4).omega
    1.0
    """

    k: int | None = None
    k_prime: int | None = None
    fraction: float | None = None
    fraction_prime: float | None = None

    def __post_init__(self) -> None:
        _ = self._sizes
        if self.k is not None and self.k_prime is not None:
            _check_order(self.k, self.k_prime)

    @property
    def _sizes(self) -> tuple[Size, Size]:
        return (
            Size(name="k", fraction_name="fraction", count=self.k, fraction=self.fraction),
            Size(
                name="k_prime",
                fraction_name="fraction_prime",
                count=self.k_prime,
                fraction=self.fraction_prime,
            ),
        )

    @property
    def spec(self) -> str:
        """``comp:k=1,k_prime=56``."""
        return "comp:" + ",".join(size.option for size in self._sizes)

    def _counts(self, dimension: int) -> tuple[int, int]:
        k, k_prime = (size.of(dimension) for size in self._sizes)
        _check_order(k, k_prime)
        return k, k_prime

    def kept(self, dimension: int) -> int:
        """k in dimension d; ValueError if k > k' or k' > d."""
        return self._counts(dimension)[0]

    def constants(self, dimension: int) -> Constants:
        """The class's constants in dimension d; ValueError if k > k' or k' > d."""
        k, k_prime = self._counts(dimension)
        return TopK(k=k_prime).constants(dimension).then(RandK(k=k).constants(k_prime))

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Select by magnitude, then draw from the selection. ValueError if k' > d."""
        dimension = vectors.shape[1]
        k, k_prime = self._counts(dimension)
        if k_prime == dimension:
            return RandK(k=k).compress(vectors, keys)
        indices = largest(vectors, k_prime)
        if k < k_prime:
            indices = indices.gather(1, sample_without_replacement(keys, k_prime, k))
        values = vectors.gather(1, indices)
        if k < k_prime:
            values *= k_prime / k
        return Payload(dimension=dimension, values=Floats(values), indices=indices)


def _check_order(k: int, k_prime: int) -> None:
    if k > k_prime:
        raise ValueError(
            f"comp draws k of the k_prime largest, but k = {k} exceeds k_prime = {k_prime}"
        )
