"""Exact scaling by powers of two."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["power_of_two", "times_power_of_two"]

# exponent bias, fraction bits, integer of the same width
_FORMATS = {
    torch.float64: (1023, 52, torch.int64),
    torch.float32: (127, 23, torch.int32),
}


def power_of_two(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """``2**exponents``, exactly.

    Parameters
    ----------
    exponents : Tensor
        int64, any shape; clamped to the dtype's normal range.
    dtype : torch.dtype
        float64 or float32.

    Returns
    -------
    Tensor
        Same shape, of ``dtype``.
    """
    bias, fraction_bits, integer = _FORMATS[dtype]
    bits = (exponents.clamp(1 - bias, bias) + bias) << fraction_bits
    return bits.to(integer).view(dtype)


def times_power_of_two(values: Tensor, exponents: Tensor) -> Tensor:
    """``values * 2**exponents``; exact wherever the result is representable.

    `torch.ldexp` forms ``2**exponents`` in float32, which is 0 or infinite long before a
    float64 is. Here the factor is applied in two halves, each within the dtype's range for
    every exponent that can take one finite number to another.

    Parameters
    ----------
    values : Tensor
        float64 or float32.
    exponents : Tensor
        int64, broadcast against ``values``.
    """
    half = exponents >> 1
    return values * power_of_two(half, values.dtype) * power_of_two(exponents - half, values.dtype)
