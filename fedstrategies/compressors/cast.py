"""Cast: deterministic rounding to a 16-bit floating-point grid."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.exponents import power_of_two, times_power_of_two
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Rounded

__all__ = ["Cast"]


@dataclass(frozen=True)
class _Grid:
    """A 16-bit format: significand bits p, exponent of the smallest subnormal, range in use.

    A message whose largest entry has exponent e (``2^(e-1) <= max < 2^e``) is not shifted for
    ``lowest <= e <= highest``, and else shifted so that e becomes ``home``.
    """

    dtype: torch.dtype
    precision: int
    smallest: int
    lowest: int
    highest: int
    home: int

    @property
    def underflow(self) -> float:
        """Largest error of a tiny entry over the least possible largest entry: ``tau``."""
        least = min(self.lowest, self.home) - 1
        return 2.0 ** (self.smallest - 1 - least)


_GRIDS = {
    "float16": _Grid(torch.float16, 11, -24, 15, 15, 15),
    "bfloat16": _Grid(torch.bfloat16, 8, -133, -62, 127, 0),
}

_LARGEST_POWER = {torch.float64: 2.0**1023, torch.float32: 2.0**127}


@dataclass(frozen=True, kw_only=True)
class Cast(Compressor):
    """Round each value to the nearest of a 16-bit grid, ties to even.

    A message is first scaled by a power of two of its own: in float16 so that its largest
    entry lies in [2^14, 2^15), in bfloat16 only where that entry is outside [2^-63, 2^127).
    So nothing overflows, and underflow is relative to the largest entry.

    ``eta = sqrt(u^2 + (d-1) tau^2), omega = 0, B = M = (1 + eta)^2``. An entry in the grid's
    normal range moves by at most u times itself, ``u = 2^-11`` in float16 and ``2^-8`` in
    bfloat16; any other by at most half the smallest subnormal, which is tau times the largest
    entry, hence at most ``tau ||x||``: ``tau = 2^-39`` and ``2^-71``. The largest entry itself
    is normal.

    Parameters
    ----------
    dtype : {"float16", "bfloat16"}
        The grid.

    Raises
    ------
    ValueError
        If ``dtype`` is neither.

    Examples
    --------
    bfloat16 has 8 significant bits.

    >>> import torch
    >>> from fedstrategies import Cast
    >>> x = torch.tensor([[257.0, -1.0, 0.1]])
    >>> Cast(dtype="bfloat16").compress(x, keys=torch.tensor([0])).dense()
    tensor([[ 2.5600e+02, -1.0000e+00,  1.0010e-01]])
    >>> Cast(dtype="bfloat16").constants(1).eta == 2**-8
    True
    """

    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _GRIDS:
            raise ValueError(f"cast knows the dtypes {', '.join(_GRIDS)}; got {self.dtype!r}")

    @property
    def spec(self) -> str:
        """``cast:float16`` or ``cast:bfloat16``."""
        return f"cast:{self.dtype}"

    def constants(self, dimension: int) -> Constants:
        """``eta = sqrt(u^2 + (d-1) tau^2), omega = 0, B = M = (1 + eta)^2``."""
        grid = _GRIDS[self.dtype]
        eta = sqrt(2.0 ** (-2 * grid.precision) + (dimension - 1) * grid.underflow**2)
        gain = (1.0 + eta) ** 2
        return Constants(eta=eta, omega=0.0, mean_gain=gain, second_moment=gain)

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Round every entry; ``keys`` are not used. Infinities and NaN stay non-finite.

        Raises
        ------
        ValueError
            If ``vectors`` are neither float64 nor float32.
        """
        if vectors.dtype not in _LARGEST_POWER:
            raise ValueError(f"cast needs float64 or float32 vectors, got {vectors.dtype}")
        grid = _GRIDS[self.dtype]
        vectors = _within_range(vectors, grid)
        shift = _shifts(vectors, grid)
        rounded = _round(times_power_of_two(vectors, -shift.unsqueeze(1)), grid)
        return Payload(
            dimension=vectors.shape[1],
            values=Rounded(rounded.to(grid.dtype), shift, vectors.dtype),
        )


def _within_range(vectors: Tensor, grid: _Grid) -> Tensor:
    """Largest magnitudes rounded down where rounding up would leave the vectors' own dtype.

    That is an error of at most ``2^-p`` of the entry, which is u.
    """
    limit = (2.0 - 2.0 ** (1 - grid.precision)) * _LARGEST_POWER[vectors.dtype]
    return torch.where(torch.isfinite(vectors), vectors.clamp(-limit, limit), vectors)


def _shifts(vectors: Tensor, grid: _Grid) -> Tensor:
    largest = vectors.abs().amax(dim=1)
    exponents = torch.frexp(largest).exponent.to(torch.int64)
    usual = (exponents >= grid.lowest) & (exponents <= grid.highest)
    keep = usual | (largest == 0) | ~torch.isfinite(largest)
    return torch.where(keep, 0, exponents - grid.home)


def _round(values: Tensor, grid: _Grid) -> Tensor:
    """Nearest number of the grid, still in the values' dtype.

    Done by hand because a conversion from float64 goes through float32, which rounds twice.
    """
    exponents = torch.frexp(values).exponent.to(torch.int64)
    quantum = (exponents - grid.precision).clamp(min=grid.smallest)
    steps = times_power_of_two(values, -quantum).round()
    rounded = steps * power_of_two(quantum, values.dtype)
    return torch.where(torch.isfinite(values), rounded, values)
