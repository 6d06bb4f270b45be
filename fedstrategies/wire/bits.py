"""Bit strings: single bits and fixed-width unsigned integers, most significant bit first.

Strings are uint8 arrays of whole bytes, padded with zeros. Eight integers of w bits take w
bytes, so that every eighth integer lies at the same place within its group of bytes: reading
and writing a string is a few array operations for each of the eight, with none per integer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bytes_for", "join", "pack", "pack_integers", "unpack", "unpack_integers"]

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

_MAX_WIDTH = 57


def bytes_for(bits: int) -> int:
    """Bytes that hold ``bits`` bits."""
    return (bits + 7) >> 3


def pack(flags: Flags) -> Bytes:
    """One bit for each flag."""
    return np.packbits(flags)


def unpack(data: memoryview, count: int) -> Flags:
    """The first ``count`` bits of ``data`` as flags: 8 times their size."""
    octets = np.frombuffer(data, dtype=np.uint8, count=bytes_for(count))
    return np.unpackbits(octets, count=count).view(np.bool_)


def _check_width(width: int) -> None:
    if not 0 <= width <= _MAX_WIDTH:
        raise ValueError(f"integers of {width} bits; expected 0 to {_MAX_WIDTH}")


def pack_integers(integers: Integers, width: int) -> Bytes:
    """The low ``width`` bits of each integer, one after the other; ValueError above 57."""
    if width == 0:
        return np.empty(0, dtype=np.uint8)
    _check_width(width)
    groups = bytes_for(len(integers))
    container = f"u{1 << (bytes_for(width) - 1).bit_length()}"
    padded = np.zeros(8 * groups, dtype=container)
    padded[: len(integers)] = integers & ((1 << width) - 1)
    members = np.ascontiguousarray(padded.reshape(groups, 8).T)
    octets = np.zeros((width, groups), dtype=np.uint8)
    for place, member in enumerate(members):
        end = (place + 1) * width
        for octet in range(place * width >> 3, bytes_for(end)):
            shift = 8 * (octet + 1) - end
            part = member << shift if shift >= 0 else member >> -shift
            octets[octet] |= part.astype(np.uint8)
    return octets.T.reshape(-1)[: bytes_for(len(integers) * width)]


def unpack_integers(data: memoryview, width: int, count: int, *, start: int = 0) -> Integers:
    """The ``count`` integers of ``width`` bits from bit ``start`` on.

    Inverse of `pack_integers`; ``data`` must hold them. ValueError above 57 bits.
    """
    if width == 0:
        return np.zeros(count, dtype=np.int64)
    _check_width(width)
    # Wherever an integer starts within a byte, it lies within a window of this many bytes.
    size = 4 if width + 7 <= 32 else 8
    octets = np.zeros(len(data) + size, dtype=np.uint8)
    octets[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    integers = np.empty(count, dtype=np.int64)
    for place in range(min(8, count)):
        first, within = divmod(start + place * width, 8)
        windows: NDArray[np.unsignedinteger] = np.ndarray(
            bytes_for(count - place),
            dtype=f">u{size}",
            buffer=octets.data,
            offset=first,
            strides=(width,),
        ).astype(f"u{size}")
        windows >>= windows.dtype.type(8 * size - width - within)
        windows &= windows.dtype.type((1 << width) - 1)
        integers[place::8] = windows
    return integers


def join(head: Bytes, bits: int, tail: Bytes, tail_bits: int) -> bytes:
    """The string of ``bits`` bits in ``head``, then that of ``tail_bits`` in ``tail``."""
    joined = np.zeros(bytes_for(bits + tail_bits), dtype=np.uint8)
    joined[: len(head)] = head
    first, within = divmod(bits, 8)
    here = joined[first : first + len(tail)]
    here |= tail >> within
    if within:
        spilled = joined[first + 1 :]
        spilled |= (tail << (8 - within))[: len(spilled)]
    return joined.tobytes()
