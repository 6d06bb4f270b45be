"""SplitMix64 as a stateless hash on int64, the same integers in numpy and torch.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
Arithmetic wraps modulo 2**64; int64 and uint64 products and sums have the same bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["GOLDEN", "integers_below", "mix", "mix_integer", "random_bits", "signed", "uniforms"]

_ALL_BITS = (1 << 64) - 1
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def signed(value: int) -> int:
    """The int64 with the bit pattern of ``value`` modulo 2**64."""
    value &= _ALL_BITS
    return value - (1 << 64) if value >> 63 else value


GOLDEN = signed(0x9E3779B97F4A7C15)
"""The odd increment between counters: 2**64 over the golden ratio."""


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 with full avalanche.

    Parameters
    ----------
    z : Tensor
        int64, any shape. Its memory may be overwritten: pass a temporary.

    Returns
    -------
    Tensor
        int64, same shape.
    """
    if z.device.type != "cpu":
        return _mix_on_device(z)
    # In-place unsigned arithmetic in numpy takes a third of the time of torch's signed one.
    words = z.numpy().view(np.uint64)
    shifted = np.empty_like(words)
    words ^= np.right_shift(words, np.uint64(30), out=shifted)
    words *= np.uint64(_MULTIPLIER_1)
    words ^= np.right_shift(words, np.uint64(27), out=shifted)
    words *= np.uint64(_MULTIPLIER_2)
    words ^= np.right_shift(words, np.uint64(31), out=shifted)
    return z


def _mix_on_device(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * signed(_MULTIPLIER_1)
    z = (z ^ _shift_right(z, 27)) * signed(_MULTIPLIER_2)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch shifts int64 arithmetically)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix_integer(z: int) -> int:
    """`mix` of one Python integer modulo 2**64 (a tensor of one element costs 20 times more)."""
    z &= _ALL_BITS
    z = (z ^ (z >> 30)) * _MULTIPLIER_1 & _ALL_BITS
    z = (z ^ (z >> 27)) * _MULTIPLIER_2 & _ALL_BITS
    return z ^ (z >> 31)


def random_bits(keys: Tensor, count: int) -> Tensor:
    """``count`` int64 of 64 random bits for each key, distinct within a key: shape (C, count).

    Element j (from 1) is ``mix(key + j * GOLDEN)``: a longer call extends a shorter one.
    """
    counters = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    return mix(keys.unsqueeze(-1) + counters * GOLDEN)


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Uniform draws in [0, 1) with 53 random bits: float64, shape (C, count)."""
    return _shift_right(random_bits(keys, count), 11).to(torch.float64).mul_(2.0**-53)


def integers_below(keys: Tensor, count: int, bound: int) -> Tensor:
    """Uniform integers in {0, ..., bound-1}: int64, shape (C, count).

    The bias of scaling 53 bits is below bound / 2**53 and ignored.
    """
    return uniforms(keys, count).mul_(bound).to(torch.int64)
