"""Natural compression: stochastic rounding to powers of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.exponents import times_power_of_two
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Powers
from fedstrategies.random import random_bits

__all__ = ["Natural"]

# integer of the same width, fraction bits, largest finite exponent field
_FORMATS = {
    torch.float64: (torch.int64, 52, 2046),
    torch.float32: (torch.int32, 23, 254),
}
_SUBNORMAL_LIFT = 64


@dataclass(frozen=True, kw_only=True)
class Natural(Compressor):
    """Round each magnitude to a neighbouring power of two, unbiased.

    With ``|x| = 2^e (1 + p), 0 <= p < 1``: ``2^(e+1)`` with probability p, else ``2^e``; zeros
    and powers of two are kept. The relative variance ``p(1-p)/(1+p)^2`` is largest at p = 1/3:
    ``eta = 0, omega = 1/8, B = 1, M = 9/8``, attained at ``|x| = 4/3 2^e``.

    The one exception: magnitudes from ``2^1023`` on (``2^127`` in float32) are rounded down,
    since the next power is not finite. Subnormal numbers are rounded as any other.

    References
    ----------
    Horváth et al., "Natural compression for distributed deep learning" (2019).

    Examples
    --------
    3 lies between 2 and 4; the other entries are powers of two.

    >>> import torch
    >>> from fedstrategies import Natural
    >>> x = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    >>> Natural().compress(x, keys=torch.tensor([1])).dense()
    tensor([[ 4.0000, -1.0000,  0.5000,  2.0000]])
    >>> Natural().constants(4).omega
    0.125
    """

    @property
    def spec(self) -> str:
        """``natural``."""
        return "natural"

    def constants(self, dimension: int) -> Constants:
        """eta = 0, omega = 1/8, B = 1, M = 9/8 in every dimension."""
        return Constants(eta=0.0, omega=1 / 8, second_moment=9 / 8)

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Round every entry; infinities and NaN stay non-finite.

        Raises
        ------
        ValueError
            If ``vectors`` are neither float64 nor float32.
        """
        if vectors.dtype not in _FORMATS:
            raise ValueError(f"natural needs float64 or float32 vectors, got {vectors.dtype}")
        dimension = vectors.shape[1]
        draws = random_bits(keys, dimension)
        smallest = torch.finfo(vectors.dtype).tiny
        rounded = _round(vectors, draws)
        subnormal = (vectors.abs() < smallest) & (vectors != 0)
        if subnormal.any():
            lift = torch.tensor(_SUBNORMAL_LIFT, device=vectors.device)
            lifted = _round(times_power_of_two(vectors, lift), draws)
            rounded = torch.where(subnormal, times_power_of_two(lifted, -lift), rounded)
        return Payload(dimension=dimension, values=Powers(rounded))


def _round(values: Tensor, draws: Tensor) -> Tensor:
    """Round normal numbers.

    The fraction field of a normal number is p itself. Adding a uniform integer of its width
    carries into the exponent with probability exactly p; then the fraction is cleared.
    """
    integer, fraction_bits, top = _FORMATS[values.dtype]
    bits = values.contiguous().view(integer)
    fraction = (1 << fraction_bits) - 1
    sign = torch.iinfo(integer).min
    magnitude = bits & ~sign
    powers = (draws >> (64 - fraction_bits)).bitwise_and_(fraction).to(integer)
    powers.add_(magnitude).bitwise_and_(~fraction).clamp_(max=top << fraction_bits)
    powers |= bits & sign
    infinity = (top + 1) << fraction_bits
    return torch.where(magnitude >= infinity, bits, powers).view(values.dtype)
