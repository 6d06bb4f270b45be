"""The arrays of a Flower message as one flat vector, and what travels beside it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fedstrategies.flower.foreign_arrays import read_array, require_finite
from fedstrategies.flower.precision import require_numbers
from fedstrategies.flower.records import records_of, tensor_of
from fedstrategies.layout import Layout

__all__ = ["FlatModel", "in_types", "only_arrays"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatModel:
    """The model that a message carries.

    Compressed are the floating-point entries. Integers, and batch normalisation's statistics,
    travel as they are: a running variance that is only nearly right may be negative.

    Attributes
    ----------
    record : ArrayRecord
        As it came.
    layout : Layout
        Of the entries that are compressed.
    x : Tensor
        They, shape (d,).
    """

    record: ArrayRecord
    layout: Layout
    x: Tensor

    @classmethod
    def of(cls, record: ArrayRecord) -> FlatModel:
        """Flatten a record.

        Raises
        ------
        ValueError
            If nothing in it can be compressed, or its floats are of several types, or of one
            that is not computed with.
        """
        try:
            named = {name: tensor_of(array) for name, array in record.items()}
            layout = Layout.of_arrays(named)
            require_numbers(layout)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the arrays of this message cannot be compressed: {error}") from None
        return cls(record=record, layout=layout, x=layout.flatten(named))

    def update_in(self, returned: ArrayRecord) -> tuple[Tensor, dict[str, Array]]:
        """u = the returned vector - x, shape (d,), and the entries that travel as they are.

        Raises
        ------
        ValueError
            If the returned entries have other names, shapes or types.
        """
        self._require_alike(returned)
        named = {name: tensor_of(returned[name]) for name in self.layout.names}
        rest = {name: returned[name] for name in self.record if name not in named}
        return self.layout.flatten(named) - self.x, rest

    def moved_by(self, update: Tensor, rest: Mapping[str, Array]) -> ArrayRecord:
        """The record of x + ``update``, with the entries of ``rest`` as they came.

        What came is read here, and never again as it came: the strategy gets arrays of ours.

        Raises
        ------
        ValueError
            If an entry is missing, one too many or of another kind, of another kind than it
            says, or not finite; or if x + update is not.
        """
        y = self.x + update
        if not bool(torch.isfinite(y).all()):
            raise ValueError("the model that it leads to is not finite")
        moved = {name: Array(value.numpy()) for name, value in self.layout.unflatten(y).items()}
        if moved.keys() & rest.keys():
            raise ValueError(f"entries came twice: {sorted(moved.keys() & rest.keys())}")
        found = ArrayRecord({**moved, **rest})
        self._require_alike(found)
        read = {name: _read(name, array) for name, array in rest.items()}
        return ArrayRecord({name: read.get(name, found[name]) for name in self.record})

    def _require_alike(self, other: ArrayRecord) -> None:
        if set(other) != set(self.record):
            raise ValueError(
                f"arrays {sorted(other)} came, {sorted(self.record)} were sent; what compresses "
                "updates needs the same entries back"
            )
        for name, array in self.record.items():
            sent, came = _kind(array), _kind(other[name])
            if sent != came:
                raise ValueError(f"array {name!r} came as {came}, but was sent as {sent}")


def _kind(array: Array) -> tuple[str, tuple[int, ...], str]:
    return array.dtype, tuple(array.shape), array.stype


def _read(name: str, array: Array) -> Array:
    """A foreign array made anew, if it holds what it says."""
    try:
        values = read_array(array.data)
        if (str(values.dtype), values.shape) != (array.dtype, tuple(array.shape)):
            raise ValueError(f"{values.dtype} {values.shape}, and not as it says")
        require_finite(values)
    except ValueError as error:
        raise ValueError(f"array {name!r}: {error}") from None
    return Array(values)


def in_types(arrays: ArrayRecord, types: Mapping[str, str]) -> ArrayRecord:
    """The arrays in given types, those without one as they are; integers by rounding.

    Flower's weighted mean turns integers into float64. The next round would then send a model of
    several types, or of twice the size.
    """
    return ArrayRecord(
        {name: _cast(array, types.get(name, array.dtype)) for name, array in arrays.items()}
    )


def _cast(array: Array, dtype: str) -> Array:
    if array.dtype == dtype:
        return array
    values, kind = array.numpy(), np.dtype(dtype)
    return Array(np.asarray(np.rint(values) if kind.kind in "iu" else values, dtype=kind))


def only_arrays(content: RecordDict, what: str) -> tuple[str, ArrayRecord]:
    """The one ArrayRecord of a message, and its name.

    Raises
    ------
    ValueError
        If there is none or more than one.
    """
    if len(records_of(content, ArrayRecord)) != 1:
        raise ValueError(
            f"{what} has {len(records_of(content, ArrayRecord))} ArrayRecords; where updates are "
            "compressed each has one, the model"
        )
    return next((k, v) for k, v in content.items() if isinstance(v, ArrayRecord))
