"""Bit strings: fixed-width unsigned integers, most significant bit first.

A bit string is a uint8 array of zeros and ones until the last moment, so that strings of
different origin are joined by concatenation and padded to a byte once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bytes_for", "join_integers", "pack", "split_integers", "unpack"]

Bits = NDArray[np.uint8]
Integers = NDArray[np.int64]

_MAX_WIDTH = 64


def bytes_for(bits: int) -> int:
    """Bytes that hold ``bits`` bits."""
    return (bits + 7) >> 3


def pack(bits: Bits) -> bytes:
    """The bit string as bytes, padded with zeros."""
    return np.packbits(bits).tobytes()


def unpack(data: memoryview) -> Bits:
    """The bit string of ``data``, padding included: 8 times its size."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8))


def _container(width: int) -> int:
    """Bytes (1, 2, 4 or 8) of the smallest unsigned type with ``width`` bits."""
    if not 0 < width <= _MAX_WIDTH:
        raise ValueError(f"integers of {width} bits; expected 1 to {_MAX_WIDTH}")
    return 1 << (bytes_for(width) - 1).bit_length()


def split_integers(integers: Integers, width: int) -> Bits:
    """The low ``width`` bits of each integer, one after the other: length n x width."""
    if width == 0:
        return np.empty(0, dtype=np.uint8)
    size = _container(width)
    octets = integers.astype(f">u{size}").view(np.uint8).reshape(-1, size)
    return np.unpackbits(octets, axis=1)[:, 8 * size - width :].reshape(-1)


def join_integers(bits: Bits, width: int, count: int) -> Integers:
    """The ``count`` integers of ``width`` bits in ``bits``; inverse of `split_integers`."""
    if width == 0:
        return np.zeros(count, dtype=np.int64)
    size = _container(width)
    wide = np.zeros((count, 8 * size), dtype=np.uint8)
    wide[:, 8 * size - width :] = bits[: count * width].reshape(count, width)
    return np.packbits(wide, axis=1).reshape(-1).view(f">u{size}").astype(np.int64)
