"""Strings of fixed-width integers, against Python's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from fedstrategies.wire.bits import (
    bytes_for,
    join,
    pack,
    pack_integers,
    unpack,
    unpack_integers,
)

WIDTHS = [1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 24, 25, 26, 31, 32, 33, 50, 56, 57]
COUNTS = [0, 1, 2, 7, 8, 9, 100]


def as_text(integers: np.ndarray, width: int) -> str:
    return "".join(format(int(i), f"0{width}b") for i in integers)


def as_bytes(text: str) -> bytes:
    size = bytes_for(len(text))
    return int(text.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


@pytest.mark.parametrize("width", WIDTHS)
def test_integers_lie_one_after_the_other(width: int) -> None:
    rng = np.random.default_rng(width)
    for count in COUNTS:
        integers = rng.integers(0, 1 << width, count)
        packed = pack_integers(integers, width).tobytes()
        assert packed == as_bytes(as_text(integers, width))
        assert unpack_integers(memoryview(packed), width, count).tolist() == integers.tolist()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("before", [0, 1, 7, 8, 13])
def test_strings_are_joined_at_any_bit(width: int, before: int) -> None:
    rng = np.random.default_rng(before)
    flags = rng.integers(0, 2, before).astype(np.bool_)
    for count in COUNTS:
        integers = rng.integers(0, 1 << width, count)
        joined = join(pack(flags), before, pack_integers(integers, width), count * width)
        assert joined == as_bytes(as_text(flags, 1) + as_text(integers, width))
        data = memoryview(joined)
        assert unpack(data, before).tolist() == flags.tolist()
        found = unpack_integers(data, width, count, start=before)
        assert found.tolist() == integers.tolist()


def test_only_the_low_bits_are_packed() -> None:
    integers = np.array([0b1101, 0b0110, -1])
    assert pack_integers(integers, 2).tobytes() == as_bytes("011011")


def test_no_bits() -> None:
    assert pack_integers(np.arange(9), 0).tobytes() == b""
    assert unpack_integers(memoryview(b""), 0, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("width", [-1, 58])
def test_impossible_widths_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"integers of {width} bits; expected 0 to 57"):
        pack_integers(np.arange(3), width)
    with pytest.raises(ValueError, match=f"integers of {width} bits; expected 0 to 57"):
        unpack_integers(memoryview(bytes(40)), width, 3)
