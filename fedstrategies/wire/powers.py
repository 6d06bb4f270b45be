"""Zeros and signed powers of two, as a sign bit and the offset of an exponent.

The exponents of one message lie within a narrow band: they are sent relative to the smallest,
at the fewest bits that hold the largest. A message with zeros reserves offset 0 for them.

Body: smallest exponent (int16), has-zero flag and width (one byte), k sign bits, k offsets.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrategies.wire.bits import (
    bytes_for,
    join,
    pack,
    pack_integers,
    unpack,
    unpack_integers,
)
from fedstrategies.wire.errors import WireError
from fedstrategies.wire.reader import Reader, check_padding

__all__ = ["decode_powers", "encode_powers", "power_sizes"]

_HEADER_BYTES = 3
_ZERO_FLAG = 0x80


def exponent_range(dtype: torch.dtype) -> tuple[int, int]:
    """The smallest and largest e for which 2**e is a number of ``dtype``, subnormals included."""
    info = torch.finfo(dtype)
    smallest = np.frexp(info.smallest_normal)[1] - 1 + np.frexp(info.eps)[1] - 1
    return int(smallest), int(np.frexp(info.max)[1] - 1)


def encode_powers(data: NDArray[np.float64]) -> bytes:
    """The values (k,) as bytes.

    Raises
    ------
    WireError
        If one of them is neither zero nor a power of two.
    """
    mantissas, exponents = np.frexp(data)
    is_zero = data == 0.0
    wrong = ~is_zero & (np.abs(mantissas) != 0.5)
    if wrong.any():
        at = int(wrong.argmax())
        raise WireError("payload", None, f"value {data[at]} at position {at} is not a power of two")
    has_zero = bool(is_zero.any())
    nonzero = exponents[~is_zero]
    smallest = int(nonzero.min()) - 1 if len(nonzero) else 0
    codes = np.where(is_zero, 0, exponents - 1 - smallest + has_zero).astype(np.int64)
    width = int(codes.max(initial=0)).bit_length()
    head = smallest.to_bytes(2, "little", signed=True) + bytes((_ZERO_FLAG * has_zero | width,))
    signs, offsets = pack(np.signbit(data)), pack_integers(codes, width)
    return head + join(signs, len(data), offsets, len(data) * width)


def power_sizes(data: Tensor) -> Tensor:
    """Lengths of what `encode_powers` returns for each row of ``data`` (C, k): int64 (C,)."""
    clients, count = data.shape
    if count == 0:
        return torch.full((clients,), _HEADER_BYTES, dtype=torch.int64, device=data.device)
    wide = data.to(torch.float64)
    exponents = torch.frexp(wide).exponent
    is_zero = wide == 0.0
    far = 1 << 20
    smallest = exponents.masked_fill(is_zero, far).amin(1)
    largest = exponents.masked_fill(is_zero, -far).amax(1)
    has_zero = is_zero.any(1)
    top = torch.where(smallest == far, 0, largest - smallest + has_zero)
    # The binary exponent of a positive integer is its number of bits.
    width = torch.frexp(top.to(torch.float64)).exponent.to(torch.int64)
    return ((count * (width + 1) + 7) >> 3) + _HEADER_BYTES


def decode_powers(reader: Reader, dtype: torch.dtype, count: int) -> Tensor:
    """The next ``count`` values of ``reader``, shape (1, k); inverse of `encode_powers`.

    Raises
    ------
    WireError
        If they are cut off, not in canonical form, or beyond the range of ``dtype``.
    """
    start = reader.position
    head = reader.take(_HEADER_BYTES, "the exponent range")
    smallest = int.from_bytes(head[:2], "little", signed=True)
    has_zero, width = bool(head[2] & _ZERO_FLAG), head[2] & ~_ZERO_FLAG
    lowest, highest = exponent_range(dtype)
    if width > (highest - lowest + 1).bit_length():
        raise reader.error(f"exponent offsets of {width} bits are too wide", at=start + 2)
    size = bytes_for(count * (width + 1))
    data = reader.take(size, "powers of two")
    check_padding(reader, data, count * (width + 1), "exponents")
    is_negative = unpack(data, count)
    codes = unpack_integers(data, width, count, start=count)
    used = np.bincount(codes)
    largest = smallest + max(len(used) - 1, 0) - has_zero
    # The shortest form uses its smallest exponent, its zero and its highest bit.
    canonical = bool(used[: 1 + has_zero].all()) and (len(used) - 1).bit_length() == width
    all_zero = largest < smallest or count == 0
    if all_zero:
        canonical = smallest == 0 and width == 0 and has_zero == (count > 0)
    if not canonical:
        raise reader.error("exponent offsets are not in their shortest form", at=start)
    if not all_zero and not lowest <= smallest <= largest <= highest:
        raise reader.error(
            f"exponents {smallest} to {largest}, {dtype} has {lowest} to {highest}", at=start
        )
    magnitudes = np.ldexp(1.0, np.arange(smallest - has_zero, largest + 1))
    if has_zero:
        magnitudes[0] = 0.0
    values = magnitudes[codes]
    np.negative(values, out=values, where=is_negative)
    return torch.from_numpy(values).to(dtype).unsqueeze(0)
