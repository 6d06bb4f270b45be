"""Arrays of strangers are read without believing a word of their headers."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest

from fedstrategies.flower.foreign_arrays import read_array, require_finite


def file_of(values: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=version, allow_pickle=True)
    return file.getvalue()


def forged(descr: str, shape: str, body: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize("version", [None, (2, 0), (3, 0)])
def test_what_numpy_writes_is_read(version: tuple[int, int] | None) -> None:
    for values in (
        np.array(1.5),
        np.array(True),
        np.zeros((0, 3)),
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.ones(3, dtype=">f4"),
        np.ones(2, dtype=np.complex64),
        np.ones((1, 1, 5), dtype=np.uint8),
    ):
        found = read_array(file_of(values, version))
        assert found.dtype == values.dtype
        assert found.shape == values.shape
        assert np.array_equal(found, values)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "begins with b''"),
        (b"garbage", "no array in numpy's format"),
        (b"PK\x03\x04 and more", "no array in numpy's format"),
        (b"\x93NUMPY\x01\x00", "8 came in all"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "65535 bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "4294967295 bytes"),
        (forged("<f4", "(8589934592,)", bytes(12)), "34359738368 bytes is declared, 12 came"),
        (forged("<f4", "(2,)", bytes(12)), "8 bytes is declared, 12 came"),
        (forged("<f8", "(0, 999999999999999999, 999999999999999999)"), "too big"),
        (forged("<f8", "(" + "0, " * 70 + ")"), "dimension"),
        (forged("<f3", "(0,)"), "not understood"),
        (forged("<f8", "(__import__('os'),)"), "no array of numbers"),
        (file_of(np.zeros(3, dtype="<U4")), "no array of numbers"),
        (file_of(np.array([None])), "no array of numbers"),
        (file_of(np.zeros(3, dtype="datetime64[s]")), "no array of numbers"),
    ],
)
def test_anything_else_is_a_value_error_and_allocates_nothing(data: bytes, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason):
            read_array(data)
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_finite_is_asked_of_floats_alone() -> None:
    require_finite(np.arange(3))
    require_finite(np.ones(3, dtype=np.complex64))
    for values in (np.array(np.nan), np.array([1.0, -np.inf]), np.array([complex(0, np.nan)])):
        with pytest.raises(ValueError, match="not finite"):
            require_finite(values)
