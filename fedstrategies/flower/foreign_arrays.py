"""Arrays in numpy's format from somebody who is not to be trusted.

``np.load`` allocates what a header declares before it looks at what came, and evaluates the header.
Here the header has to say just what must follow, in numpy's own words, and then the bytes are the
array: nothing is evaluated, unpickled or allocated.

Source: the format's specification, ``numpy.lib.format``.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_array", "require_finite"]

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096
_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufc]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18},?)?)\), \} *\n"
)


def read_array(data: bytes) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file, a view of its bytes, not writeable.

    Takes booleans, integers, floating-point and complex numbers, of any shape and order.

    Raises
    ------
    ValueError
        If it is no such file, or its length is not the one its header declares.
    """
    header, start = _header(data)
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError(f"no array of numbers: its header is {header[:80]!r}")
    descr, fortran, text = found.groups()
    try:
        kind = np.dtype(descr.decode())
    except TypeError as error:
        raise ValueError(f"no array of numbers: {error}") from None
    shape = tuple(int(size) for size in text.split(b",") if size.strip())
    declared, came = prod(shape) * kind.itemsize, len(data) - start
    if declared != came:
        raise ValueError(f"an array of {declared} bytes is declared, {came} came")
    values = np.frombuffer(data, dtype=kind, offset=start)
    return values.reshape(shape, order="F" if fortran == b"True" else "C")


def _header(data: bytes) -> tuple[bytes, int]:
    """The text that describes the array, and where the numbers begin."""
    # Of versions 2 and 3 the length has four bytes; what they add is for headers of other kinds.
    width = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(data[6:8])
    if data[:6] != _MAGIC or width is None:
        raise ValueError(f"no array in numpy's format: it begins with {data[:8]!r}")
    start = 8 + width
    end = start + int.from_bytes(data[8:start], "little")
    if end - start > _LONGEST_HEADER or end > len(data):
        raise ValueError(f"an array's header of {end - start} bytes, {len(data)} came in all")
    return data[start:end], end


def require_finite(values: npt.NDArray[Any]) -> None:
    """Refuse infinity and NaN among floating-point and complex numbers.

    Raises
    ------
    ValueError
        If there are any.
    """
    if values.dtype.kind in "fc" and not bool(np.isfinite(values).all()):
        raise ValueError("numbers that are not finite")
