"""Values as bytes: raw floats, 16-bit floats with a shift, quantised levels, powers of two.

Everything is little-endian and lossless; what rounds is a compressor, never the wire.

==================  =================================================================
coding              body
==================  =================================================================
floats              k numbers
rounded             shift (int16), k 16-bit numbers
levels              scale (one number), s (varint), k times level + s, packed at
                    ceil(log2(2 s + 1)) bits
powers              see `fedstrategies.wire.powers`
==================  =================================================================
"""

from __future__ import annotations

import sys
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrategies.compressors.values import Floats, Levels, Powers, Rounded, Values
from fedstrategies.wire.bits import bytes_for, pack_integers, unpack_integers
from fedstrategies.wire.errors import WireError
from fedstrategies.wire.frame import CODEC_AT, DTYPES, ValueCoding
from fedstrategies.wire.powers import decode_powers, encode_powers, power_sizes
from fedstrategies.wire.reader import Reader, check_padding, varint

__all__ = ["coding_of", "decode_values", "encode_values", "value_sizes"]

# float64 reaches from 2**-1074 to 2**1024 and 16-bit floats from 2**-133 to 2**128: no
# message needs a scale further out than their sum.
_MAX_SHIFT = 1280
_MAX_STEPS = 2**31 - 1
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_IS_LITTLE = sys.byteorder == "little"

_Number = TypeVar("_Number", bound=np.generic)


def coding_of(values: Values) -> tuple[ValueCoding, torch.dtype, int]:
    """Coding, dtype of the decoded values, and k.

    Raises
    ------
    WireError
        If a dtype has no coding.
    """
    coding = ValueCoding.FLOATS
    if isinstance(values, Levels):
        coding, dtype, data = ValueCoding.LEVELS, values.scale.dtype, values.levels
    elif isinstance(values, Rounded):
        dtype, data = values.dtype, values.data
        if data.dtype == torch.float16:
            coding = ValueCoding.ROUNDED_FLOAT16
        elif data.dtype == torch.bfloat16:
            coding = ValueCoding.ROUNDED_BFLOAT16
        else:
            raise WireError(
                "payload", None, f"rounded values of {data.dtype}; expected float16 or bfloat16"
            )
    else:
        dtype, data = values.data.dtype, values.data
        if isinstance(values, Powers):
            coding = ValueCoding.POWERS
    if dtype not in _allowed(coding):
        expected = ", ".join(map(str, _allowed(coding)))
        raise WireError("payload", None, f"{coding.name} of {dtype}; expected {expected}")
    return coding, dtype, data.shape[1]


def _allowed(coding: ValueCoding) -> tuple[torch.dtype, ...]:
    """Dtypes of the values of each coding: only floats as they are can be 16 bits wide."""
    return DTYPES if coding == ValueCoding.FLOATS else DTYPES[:2]


def _raw(numbers: Tensor) -> bytes:
    """The bit patterns of a float tensor, whatever they stand for."""
    numbers = numbers.detach().cpu()
    if numbers.dtype == torch.bfloat16:  # of which numpy has none
        numbers = numbers.contiguous().view(torch.int16)
    return _swapped(numbers.numpy()).tobytes()


def _swapped(numbers: NDArray[_Number]) -> NDArray[_Number]:
    return numbers if _IS_LITTLE else numbers.byteswap()


def _level_width(steps: int) -> int:
    return (2 * steps).bit_length()


def encode_values(values: Values, row: int) -> bytes:
    """The values of one client as bytes.

    Raises
    ------
    WireError
        If a value is outside what its coding can say.
    """
    if isinstance(values, Floats):
        return _raw(values.data[row])
    if isinstance(values, Powers):
        return encode_powers(values.data[row].detach().cpu().to(torch.float64).numpy())
    if isinstance(values, Rounded):
        shift = int(values.shift[row])
        if abs(shift) > _MAX_SHIFT:
            raise WireError("payload", None, f"shift {shift}; expected at most {_MAX_SHIFT}")
        return shift.to_bytes(2, "little", signed=True) + _raw(values.data[row])
    steps, levels = values.steps, values.levels[row].cpu().numpy()
    if not 1 <= steps <= _MAX_STEPS:
        raise WireError("payload", None, f"{steps} levels; expected 1 to {_MAX_STEPS}")
    if len(levels) and (levels.min() < -steps or levels.max() > steps):
        raise WireError("payload", None, f"a level is outside -{steps} to {steps}")
    codes = pack_integers(levels + steps, _level_width(steps))
    return _raw(values.scale[row]) + varint(steps) + codes.tobytes()


def value_sizes(values: Values) -> int | Tensor:
    """Lengths of what `encode_values` returns: one number, or int64 (C,) where they differ."""
    if isinstance(values, Floats):
        return values.data.shape[1] * values.data.element_size()
    if isinstance(values, Powers):
        return power_sizes(values.data)
    if isinstance(values, Rounded):
        return 2 + 2 * values.data.shape[1]
    packed = bytes_for(values.levels.shape[1] * _level_width(values.steps))
    return values.scale.element_size() + len(varint(values.steps)) + packed


def decode_values(
    reader: Reader,
    coding: ValueCoding,
    dtype: torch.dtype,
    count: int,
    *,
    finite: bool,
    out: Tensor | None = None,
) -> Values:
    """The next ``count`` values of ``reader``, one row; inverse of `encode_values`.

    Floats go to ``out``, shape (1, count), if it is given and fits.

    Raises
    ------
    WireError
        If they are cut off, out of range, or not finite where ``finite`` is asked.
    """
    start = reader.position
    if dtype not in _allowed(coding):
        raise reader.error(f"{coding.name} of {dtype}, which has none", at=CODEC_AT)
    values: Values
    if coding == ValueCoding.FLOATS:
        fits = out is not None and (out.dtype, out.shape) == (dtype, (1, count))
        values = Floats(_take_numbers(reader, dtype, count, out if fits else None))
    elif coding == ValueCoding.POWERS:
        return Powers(decode_powers(reader, dtype, count))
    elif coding == ValueCoding.LEVELS:
        values = _decode_levels(reader, dtype, count)
    else:
        half = torch.float16 if coding == ValueCoding.ROUNDED_FLOAT16 else torch.bfloat16
        shift = int.from_bytes(reader.take(2, "the shift"), "little", signed=True)
        if abs(shift) > _MAX_SHIFT:
            raise reader.error(f"shift {shift}, expected at most {_MAX_SHIFT}", at=start)
        data = _take_numbers(reader, half, count)
        values = Rounded(data, torch.tensor([shift]), dtype)
    if finite:
        _check_finite(reader, values, start)
    return values


def _take_numbers(
    reader: Reader, dtype: torch.dtype, count: int, out: Tensor | None = None
) -> Tensor:
    """The next ``count`` numbers, shape (1, count), or in ``out``; inverse of `_raw`."""
    data = reader.take(count * dtype.itemsize, f"{count} values of {dtype}")
    integers = np.frombuffer(data, dtype=f"i{dtype.itemsize}").reshape(1, count)
    if out is not None:
        out.view(_INTEGERS[dtype.itemsize]).numpy()[:] = _swapped(integers)
        return out
    return torch.from_numpy(_swapped(integers).copy()).view(dtype)


def _check_finite(reader: Reader, values: Values, start: int) -> None:
    numbers = values.scale if isinstance(values, Levels) else values.to_tensor()
    # numpy has no bfloat16, but any float32 is finite where its 16-bit value is.
    is_finite = np.isfinite((numbers.float() if numbers.itemsize == 2 else numbers).numpy())
    if not is_finite.all():
        position = int(is_finite.argmin())
        count = numbers.numel()
        what = "the scale" if isinstance(values, Levels) else f"value {position} of {count}"
        found = float(numbers.reshape(-1)[position])
        raise reader.error(f"{what} is {found}, expected finite", at=start)


def _decode_levels(reader: Reader, dtype: torch.dtype, count: int) -> Levels:
    scale = _take_numbers(reader, dtype, 1)[0]
    at = reader.position
    steps = reader.varint("the number of levels")
    if not 1 <= steps <= _MAX_STEPS:
        raise reader.error(f"{steps} levels, expected 1 to {_MAX_STEPS}", at=at)
    width = _level_width(steps)
    at = reader.position
    data = reader.take(bytes_for(count * width), f"{count} levels")
    check_padding(reader, data, count * width, "levels")
    codes = unpack_integers(data, width, count)
    if count and int(codes.max()) > 2 * steps:
        raise reader.error(f"level {int(codes.max()) - steps} is above {steps}", at=at)
    return Levels(scale, torch.from_numpy(codes - steps).unsqueeze(0), steps)
