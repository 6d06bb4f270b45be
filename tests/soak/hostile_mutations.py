"""Seeded mutations of bytes: of bits, bytes, numbers and lengths; splices, cuts and repairs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from random import Random

__all__ = ["mutated", "repaired"]

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_DOUBLES = tuple(
    bytes.fromhex(number)
    for number in (
        "000000000000f07f",  # infinity
        "000000000000f8ff",  # NaN
        "ffffffffffffef7f",  # the largest double
        "0100000000000000",  # the smallest
        "0000000000000080",  # -0.0
        "000000000000f0bf",  # -1
    )
)
_CHECKSUM = 4


def repaired(blob: bytes) -> bytes:
    """The same with a checksum that fits, so that what lies behind it is reached."""
    if len(blob) <= _CHECKSUM:
        return blob
    content = blob[:-_CHECKSUM]
    return content + zlib.crc32(content).to_bytes(_CHECKSUM, "little")


def _flip_bit(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set_byte(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _step_byte(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    place = draw.randrange(len(data))
    data[place] = (data[place] + draw.choice((-1, 1))) % 256


def _set_number(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    width = draw.choice((1, 2, 4, 8))
    place = draw.randrange(len(data))
    number = draw.choice(_EDGES) % 2 ** (8 * width)
    data[place : place + width] = number.to_bytes(width, draw.choice(("little", "big")))


def _set_double(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    place = draw.randrange(len(data))
    data[place : place + 8] = draw.choice(_DOUBLES)


def _set_varint(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    """A declared size: small, huge, padded, or without an end."""
    value, groups = draw.choice((0, 1, 127, 128, 2**28, 2**35 - 1, 2**40)), bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    if draw.random() < 0.2:
        groups[-1] |= 0x80
    place = draw.randrange(len(data))
    data[place : place + draw.randrange(1, 3)] = groups


def _truncate(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    del data[draw.randrange(len(data)) :]


def _extend(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    data += draw.randbytes(draw.randrange(1, 40))


def _delete(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    place = draw.randrange(len(data))
    del data[place : place + draw.randrange(1, 9)]


def _insert(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    place = draw.randrange(len(data) + 1)
    data[place:place] = draw.randbytes(draw.randrange(1, 9))


def _repeat(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    place = draw.randrange(len(data))
    piece = data[place : place + draw.randrange(1, 33)]
    data[place:place] = piece * draw.randrange(1, 4)


def _splice(data: bytearray, draw: Random, others: Sequence[bytes]) -> None:
    other = draw.choice(others)
    if other:
        data[draw.randrange(len(data) + 1) :] = other[draw.randrange(len(other)) :]


_MUTATIONS: tuple[Callable[[bytearray, Random, Sequence[bytes]], None], ...] = (
    _flip_bit,
    _flip_bit,
    _set_byte,
    _step_byte,
    _set_number,
    _set_double,
    _set_varint,
    _truncate,
    _extend,
    _delete,
    _insert,
    _repeat,
    _splice,
)


def mutated(
    blob: bytes,
    draw: Random,
    others: Sequence[bytes],
    repair: Callable[[bytes], bytes] | None = None,
    *,
    most: int = 4,
) -> bytes:
    """A blob after 1 to ``most`` mutations; three in four are repaired where there is a way.

    Parameters
    ----------
    blob : bytes
        A real message.
    draw : Random
        Of the run: what it gives is a function of its seed.
    others : sequence of bytes
        Messages to splice with.
    repair : callable or None
        Makes checksums fit.
    """
    data = bytearray(blob)
    for _ in range(draw.randrange(1, most + 1)):
        if not data:
            data = bytearray(draw.randbytes(4))
        draw.choice(_MUTATIONS)(data, draw, others)
    found = bytes(data)
    return repair(found) if repair is not None and draw.random() < 0.75 else found
