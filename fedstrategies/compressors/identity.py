"""No compression."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Floats

__all__ = ["Identity"]


@dataclass(frozen=True, kw_only=True)
class Identity(Compressor):
    """C(x) = x: eta = omega = 0, B = M = 1.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import Identity
    >>> Identity().compress(torch.tensor([[3.0, -1.0]]), keys=torch.tensor([0])).dense()
    tensor([[ 3., -1.]])
    >>> Identity().constants(2).unbiased
    True
    """

    @property
    def spec(self) -> str:
        """``identity``."""
        return "identity"

    def constants(self, dimension: int) -> Constants:
        """eta = omega = 0, B = M = 1 in every dimension."""
        return Constants(eta=0.0, omega=0.0, second_moment=1.0, residual=0.0, selects=True)

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """All values, as they are."""
        return Payload(dimension=vectors.shape[1], values=Floats(vectors))
