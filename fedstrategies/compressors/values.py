"""Coded values of C messages: what stands at the places a compressor chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.compressors.exponents import times_power_of_two

__all__ = ["Floats", "Levels", "Powers", "Rounded", "Values", "stack_values"]


@dataclass(frozen=True)
class Floats:
    """Values as they are, in their own dtype (float64 or float32).

    Attributes
    ----------
    data : Tensor
        Shape (C, k).
    """

    data: Tensor

    def to_tensor(self) -> Tensor:
        """The values, shape (C, k)."""
        return self.data

    def rows(self, selection: Tensor | slice) -> Floats:
        """The messages of some clients."""
        return Floats(self.data[selection])


@dataclass(frozen=True)
class Powers:
    """Values that are 0 or plus/minus a power of two (natural compression).

    Attributes
    ----------
    data : Tensor
        Shape (C, k), float; every entry is 0 or +-2**e.
    """

    data: Tensor

    def to_tensor(self) -> Tensor:
        """The values, shape (C, k)."""
        return self.data

    def rows(self, selection: Tensor | slice) -> Powers:
        """The messages of some clients."""
        return Powers(self.data[selection])


@dataclass(frozen=True)
class Rounded:
    """Values on a 16-bit grid, shifted by one power of two per message: ``data * 2**shift``.

    Attributes
    ----------
    data : Tensor
        Shape (C, k), dtype float16 or bfloat16.
    shift : Tensor
        int64, shape (C,): binary exponent of each message's scale.
    dtype : torch.dtype
        The dtype of the values they stand for.
    """

    data: Tensor
    shift: Tensor
    dtype: torch.dtype

    def to_tensor(self) -> Tensor:
        """The values, shape (C, k); exact, since scaling by a power of two is."""
        return times_power_of_two(self.data.to(self.dtype), self.shift.unsqueeze(1))

    def rows(self, selection: Tensor | slice) -> Rounded:
        """The messages of some clients."""
        return Rounded(self.data[selection], self.shift[selection], self.dtype)


@dataclass(frozen=True)
class Levels:
    """Quantised values ``scale * (level / steps)`` (QSGD).

    Attributes
    ----------
    scale : Tensor
        Shape (C,), float: the norm of each message.
    levels : Tensor
        int64, shape (C, k), in [-steps, steps].
    steps : int
        s, the number of levels above zero.
    """

    scale: Tensor
    levels: Tensor
    steps: int

    def to_tensor(self) -> Tensor:
        """The values, shape (C, k)."""
        return self.scale.unsqueeze(1) * (self.levels.to(self.scale.dtype) / self.steps)

    def rows(self, selection: Tensor | slice) -> Levels:
        """The messages of some clients."""
        return Levels(self.scale[selection], self.levels[selection], self.steps)


Values = Floats | Powers | Rounded | Levels


def stack_values(parts: Sequence[Values]) -> Values:
    """One batch from several of the same kind, in order.

    Raises
    ------
    ValueError
        If quantised values differ in their number of levels.
    """
    first = parts[0]
    if isinstance(first, Floats):
        rows = [p.data for p in parts if isinstance(p, Floats)]
        side_by_side = _side_by_side(rows)
        return Floats(torch.cat(rows) if side_by_side is None else side_by_side)
    if isinstance(first, Powers):
        return Powers(torch.cat([p.data for p in parts if isinstance(p, Powers)]))
    if isinstance(first, Rounded):
        rounded = [p for p in parts if isinstance(p, Rounded)]
        return Rounded(
            torch.cat([p.data for p in rounded]),
            torch.cat([p.shift for p in rounded]),
            first.dtype,
        )
    quantised = [p for p in parts if isinstance(p, Levels)]
    if {p.steps for p in quantised} != {first.steps}:
        raise ValueError("payloads of different quantisation levels cannot be stacked")
    return Levels(
        torch.cat([p.scale for p in quantised]),
        torch.cat([p.levels for p in quantised]),
        first.steps,
    )


def _side_by_side(rows: Sequence[Tensor]) -> Tensor | None:
    """Single rows that lie one behind the other in one storage, as the matrix they are."""
    first, (count, width) = rows[0], (len(rows), rows[0].shape[1])
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    for number, row in enumerate(rows):
        here = row.untyped_storage().data_ptr(), row.storage_offset(), row.shape, row.dtype
        if here != (storage, start + number * width, (1, width), first.dtype):
            return None
        if row.stride(1) != 1:
            return None
    return first.as_strided((count, width), (width, 1))
