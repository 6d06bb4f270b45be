"""Rice's code of the gaps of an index set: choice of the parameter, writing, reading.

The unary parts of all gaps come first, then all low bits: both are then plain array operations,
with no step per element. Sets of a few members are written and read as one Python integer
instead, in which every step costs less than an array operation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedstrategies.wire.bits import bytes_for, join, pack, pack_integers, unpack, unpack_integers
from fedstrategies.wire.errors import WireError
from fedstrategies.wire.reader import Reader, check_padding

__all__ = [
    "FEW",
    "best_parameter",
    "gaps_of",
    "is_best",
    "order_error",
    "parameter_bytes",
    "parameters",
    "read_few",
    "read_many",
    "write_few",
    "write_many",
]

Indices = NDArray[np.int64]

FEW = 32
"""Below this many members a search over b saves less than the byte that would state b."""


def parameters(dimension: int, members: int) -> range:
    """The values of b worth trying, a function of the sizes alone.

    The middle one is the best for all sets taken together; smaller ones serve sets that are
    dense in one part of the vector.
    """
    if members == 0:
        return range(1)
    best = (dimension // members).bit_length() - 1
    if members < FEW:
        return range(best, best + 1)
    return range(max(best - 2, 0), best + 2)


def parameter_bytes(options: range) -> int:
    """Bytes that state b: one where there is a choice."""
    return int(len(options) > 1)


def gaps_of(indices: Indices) -> Indices:
    """``g_j = i_j - i_{j-1} - 1``, with ``i_0 = -1``."""
    gaps = indices.copy()
    gaps[1:] -= indices[:-1]
    gaps[1:] -= 1
    return gaps


def best_parameter(gaps: Indices, options: range) -> int:
    """The b of fewest bits, the smallest of equals.

    The price of one bit more, ``m - sum_j ceil(floor(g_j / 2**b) / 2)``, only grows with b: the
    best b is the first that the next one does not undercut.
    """

    def price_of_next(b: int) -> int:
        return len(gaps) - int(((gaps >> b) + 1 >> 1).sum())

    b = options[len(options) // 2]
    while b < options[-1] and price_of_next(b) < 0:
        b += 1
    if b > options[len(options) // 2]:
        return b
    while b > options[0] and price_of_next(b - 1) >= 0:
        b -= 1
    return b


def order_error(dimension: int) -> WireError:
    """What is raised for indices out of order or range."""
    return WireError("payload", None, f"indices must ascend strictly within 0 to {dimension - 1}")


def write_few(indices: list[int], dimension: int) -> bytes:
    """The string of a set for which there is no choice of b; WireError if out of order."""
    members = len(indices)
    if members == 0:
        return b""
    b = parameters(dimension, members)[0]
    low_mask, previous, unary_bits = (1 << b) - 1, -1, 0
    unary = low = 0
    for index in indices:
        gap = index - previous - 1
        if gap < 0 or index >= dimension:
            raise order_error(dimension)
        zeros = gap >> b
        unary_bits += zeros + 1
        unary = unary << (zeros + 1) | 1
        low = low << b | gap & low_mask
        previous = index
    bits = unary_bits + members * b
    size = bytes_for(bits)
    return ((unary << members * b | low) << (8 * size - bits)).to_bytes(size, "big")


def write_many(gaps: Indices, options: range) -> bytes:
    """The best b as a byte, then the string of all gaps."""
    b = best_parameter(gaps, options)
    ends = (gaps >> b).cumsum()
    ends += np.arange(len(gaps))
    unary = np.zeros(int(ends[-1]) + 1, dtype=np.bool_)
    unary[ends] = True
    low_bits = pack_integers(gaps, b)
    return bytes((b,)) + join(pack(unary), len(unary), low_bits, len(gaps) * b)


def read_few(reader: Reader, members: int, b: int) -> Indices:
    """The set whose bit string with parameter b is the rest of ``reader``, by `write_few`."""
    at, size = reader.position, reader.remaining
    data = reader.take(size, "the index set")
    bits = f"{int.from_bytes(data, 'big'):0{8 * size}b}"
    ends: list[int] = []
    end = -1
    for _ in range(members):
        end = bits.find("1", end + 1, len(bits) - members * b)
        if end < 0:
            raise _too_few(reader, len(ends), members, at)
        ends.append(end)
    used = end + 1 + members * b
    _check_length(reader, at, size, used)
    check_padding(reader, data, used, "index set")
    low, low_mask, low_sum = int(bits[:used], 2), (1 << b) - 1, 0
    indices: list[int] = []
    for j, end in enumerate(ends):
        # ends_j is the sum of all quotients so far plus j; the low bits add up apart.
        low_sum += low >> (members - 1 - j) * b & low_mask
        indices.append((end - j << b) + j + low_sum)
    return np.array(indices, dtype=np.int64)


def read_many(reader: Reader, members: int, b: int, options: range, start: int) -> Indices:
    """The set whose bit string with parameter b is the rest of ``reader``."""
    at, size = reader.position, reader.remaining
    data = reader.take(size, "the index set")
    ends = np.flatnonzero(unpack(data, 8 * size - members * b))[:members]
    if len(ends) < members:
        raise _too_few(reader, len(ends), members, at)
    unary_bits = int(ends[-1]) + 1
    used = unary_bits + members * b
    _check_length(reader, at, size, used)
    check_padding(reader, data, used, "index set")
    low = unpack_integers(data, b, members, start=unary_bits)
    if not is_best(ends, low, b, options):
        raise reader.error(f"Rice parameter {b} is not the shortest for this set", at=start)
    if b == 0:
        return ends
    # ends_j is the sum of all quotients so far plus j; the low bits add up apart.
    counter = np.arange(members)
    ends -= counter
    ends <<= b
    ends += counter
    ends += low.cumsum()
    return ends


def is_best(ends: Indices, low: Indices, b: int, options: range) -> bool:
    """Whether b is the `best_parameter`, from the two parts of its code.

    With the quotients q_j at b: the price of b + 1 is ``m - sum_j ceil(q_j / 2)``, and what b
    itself costs more than b - 1 is ``m - sum_j (q_j + t_j)``, t_j the highest low bit.
    """
    members = len(ends)
    quotients = int(ends[-1]) + 1 - members
    if b < options[-1]:
        parity = (ends & 1).astype(np.bool_)
        # q_j is odd where ends_j and its predecessor are of one parity (before the first: -1).
        odd = int(np.count_nonzero(parity[1:] == parity[:-1])) + int(parity[0])
        if members < (quotients + odd) // 2:
            return False
    highest = int(np.count_nonzero(low & (1 << b - 1))) if b > options[0] else 0
    return b == options[0] or members < quotients + highest


def _check_length(reader: Reader, at: int, size: int, used: int) -> None:
    if bytes_for(used) != size:
        raise reader.error(f"{size - bytes_for(used)} bytes are left after the index set", at=at)


def _too_few(reader: Reader, found: int, members: int, at: int) -> WireError:
    return reader.error(f"the index set ends after {found} of {members} indices", at=at)
