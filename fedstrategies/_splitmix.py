"""SplitMix64 as a stateless hash on int64, the same integers in numpy and torch.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
Arithmetic wraps modulo 2**64; int64 and uint64 products and sums have the same bits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "GOLDEN",
    "integers_below",
    "mix",
    "mix_affine",
    "mix_integer",
    "mix_xor",
    "random_bits",
    "signed",
    "uniforms",
]

_ALL_BITS = (1 << 64) - 1
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB
_MULTIPLIERS = np.uint64(_MULTIPLIER_1), np.uint64(_MULTIPLIER_2)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
# Words at work at a time: they and their shifts stay in a core's second-level cache.
_BLOCK = 1 << 15


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
    words = _words(z)
    if z.numel() <= _BLOCK:
        _mix_words(words, np.empty_like(words))
    elif z.is_contiguous():
        flat = words.reshape(-1)
        scratch = np.empty(min(len(flat), _BLOCK), dtype=np.uint64)
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            _mix_words(block, scratch[: len(block)])
    else:
        _mix_words(words, np.empty_like(words))
    return z


def mix_affine(z: Tensor, *, factor: int = 1, addend: int) -> Tensor:
    """``mix(factor * z + addend)`` modulo 2**64, of any shape; ``z`` stays as it is."""
    if z.device.type != "cpu" or z.numel() > _BLOCK:
        return mix((z if factor == 1 else z * signed(factor)) + signed(addend))
    # A cohort's few keys: the calls count, not the words, and numpy's cost a third of torch's.
    words = _words(z) * np.uint64(factor & _ALL_BITS)
    words += np.uint64(addend & _ALL_BITS)
    _mix_words(words, np.empty_like(words))
    return torch.from_numpy(words.view(np.int64))


def mix_xor(z: Tensor, word: int) -> Tensor:
    """``mix(z ^ word)``, of any shape; ``z`` stays as it is."""
    if z.device.type != "cpu" or z.numel() > _BLOCK:
        return mix(z ^ signed(word))
    words = _words(z) ^ np.uint64(word & _ALL_BITS)
    _mix_words(words, np.empty_like(words))
    return torch.from_numpy(words.view(np.int64))


def _words(z: Tensor) -> NDArray[np.uint64]:
    return z.numpy().view(np.uint64)


def _mix_words(words: NDArray[np.uint64], shifted: NDArray[np.uint64]) -> None:
    """`mix` in place, with room for the shifted words."""
    words ^= np.right_shift(words, _SHIFTS[0], out=shifted)
    words *= _MULTIPLIERS[0]
    words ^= np.right_shift(words, _SHIFTS[1], out=shifted)
    words *= _MULTIPLIERS[1]
    words ^= np.right_shift(words, _SHIFTS[2], out=shifted)


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


def random_bits(keys: Tensor, count: int, *, skip: int = 0) -> Tensor:
    """``count`` int64 of 64 random bits for each key, distinct within a key: shape (C, count).

    Element j (from 1) is ``mix(key + (skip + j) * GOLDEN)``: a longer call extends a shorter
    one, and a call that skips its length goes on where it ended.
    """
    if count == 1:
        return mix_affine(keys, addend=(skip + 1) * GOLDEN).unsqueeze(-1)
    counters = torch.arange(skip + 1, skip + count + 1, dtype=torch.int64, device=keys.device)
    return mix(keys.unsqueeze(-1) + counters.mul_(GOLDEN))


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Uniform draws in [0, 1) with 53 random bits: float64, shape (C, count)."""
    bits = random_bits(keys, count)
    if bits.device.type != "cpu":
        return _shift_right(bits, 11).to(torch.float64).mul_(2.0**-53)
    return torch.from_numpy(_uniforms(bits))


def _uniforms(bits: Tensor) -> NDArray[np.float64]:
    """`uniforms` from their bits, which are overwritten."""
    words = _words(bits)
    # An unsigned shift of numpy's, in place, is one pass where torch's takes two and a copy.
    words >>= np.uint64(11)
    draws = words.view(np.int64).astype(np.float64)
    draws *= 2.0**-53
    return draws


def integers_below(keys: Tensor, count: int, bound: int) -> Tensor:
    """Uniform integers in {0, ..., bound-1}: int64, shape (C, count).

    The bias of scaling 53 bits is below bound / 2**53 and ignored.
    """
    if keys.device.type != "cpu":
        return uniforms(keys, count).mul_(bound).to(torch.int64)
    draws = _uniforms(random_bits(keys, count))
    draws *= bound
    return torch.from_numpy(draws.astype(np.int64))
