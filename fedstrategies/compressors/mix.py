"""Mix-(k, k'): the k largest entries and k' random ones of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.select import largest
from fedstrategies.compressors.size import Size
from fedstrategies.compressors.values import Floats
from fedstrategies.random import sample_without_replacement

__all__ = ["MixK"]


@dataclass(frozen=True, kw_only=True)
class MixK(Compressor):
    """Keep the k largest magnitudes and a uniform k'-subset of the rest, unscaled.

    ``eta = (d-k-k') / sqrt((d-k) d), omega = k'(d-k-k') / ((d-k) d), B = M = 1``: eta and
    omega are attained where all magnitudes are equal, B and M where x has at most k entries.
    k' = 0 is top-k, k = 0 scaled rand-k'.

    Parameters
    ----------
    k : int, optional
        Number of largest entries kept, 0 or more.
    k_prime : int, optional
        k', the number of random ones, 0 or more.
    fraction, fraction_prime : float, optional
        The same as shares of d. Give exactly one of each pair.

    Raises
    ------
    ValueError
        If not exactly one of a pair is given, one is out of range, or both counts are 0.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    The largest entry, and one that is drawn.

    >>> import torch
    >>> from fedstrategies import MixK
    >>> x = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    >>> MixK(k=1, k_prime=1).compress(x, keys=torch.tensor([1])).dense()
    tensor([[3.0000, 0.0000, 0.5000, 0.0000]])
    >>> round(MixK(k=1, k_prime=1).constants(4).omega, 6)
    0.166667
    """

    k: int | None = None
    k_prime: int | None = None
    fraction: float | None = None
    fraction_prime: float | None = None

    def __post_init__(self) -> None:
        _ = self._sizes
        if self.k == 0 and self.k_prime == 0:
            raise ValueError("mix with k = k_prime = 0 keeps nothing; raise one of them")

    @property
    def _sizes(self) -> tuple[Size, Size]:
        return (
            Size(
                name="k",
                fraction_name="fraction",
                count=self.k,
                fraction=self.fraction,
                at_least=0,
            ),
            Size(
                name="k_prime",
                fraction_name="fraction_prime",
                count=self.k_prime,
                fraction=self.fraction_prime,
                at_least=0,
            ),
        )

    @property
    def spec(self) -> str:
        """``mix:k=1,k_prime=5``."""
        return "mix:" + ",".join(size.option for size in self._sizes)

    def _counts(self, dimension: int) -> tuple[int, int]:
        k, k_prime = (size.of(dimension) for size in self._sizes)
        if k + k_prime > dimension:
            raise ValueError(
                f"k + k_prime = {k} + {k_prime} exceeds the dimension d = {dimension}; "
                "lower one of them"
            )
        return k, k_prime

    def kept(self, dimension: int) -> int:
        """k + k' in dimension d; ValueError if it exceeds d."""
        return sum(self._counts(dimension))

    def constants(self, dimension: int) -> Constants:
        """The class's constants in dimension d; ValueError if k + k' > d.

        With ``rest`` the energy outside the top k, ``E C(x) - x`` is ``(d-k-k')/(d-k)`` of it
        and ``E||C(x) - x||^2 = (d-k-k')/(d-k) rest <= (d-k-k')/d ||x||^2``.
        """
        k, k_prime = self._counts(dimension)
        others, dropped = dimension - k, dimension - k - k_prime
        if dropped == 0:
            return Constants(eta=0.0, omega=0.0, second_moment=1.0, residual=0.0, selects=True)
        share = k_prime / others
        return Constants(
            eta=dropped / sqrt(others * dimension),
            omega=k_prime * dropped / (others * dimension),
            mean_gain=1.0 if k else share**2,
            second_moment=1.0 if k else share,
            residual=dropped / dimension,
            selects=True,
        )

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Select by magnitude, then draw from the rest. ValueError if k + k' > d."""
        dimension = vectors.shape[1]
        k, k_prime = self._counts(dimension)
        if k + k_prime == dimension:
            return Payload(dimension=dimension, values=Floats(vectors))
        indices = _top_and_random(vectors, keys, k, k_prime)
        return Payload(
            dimension=dimension, values=Floats(vectors.gather(1, indices)), indices=indices
        )


def _top_and_random(vectors: Tensor, keys: Tensor, k: int, k_prime: int) -> Tensor:
    ranks = sample_without_replacement(keys, vectors.shape[1] - k, k_prime)
    if k == 0:
        return ranks
    top = largest(vectors, k)
    if k_prime == 0:
        return top
    # Before the j-th top index lie top[j] - j others: the r-th of the others is r plus the
    # number of top indices with at most r others before them.
    others_before = top - torch.arange(k, device=top.device)
    random = ranks + torch.searchsorted(others_before, ranks, right=True)
    return torch.cat([top, random], dim=1).sort(dim=1).values
