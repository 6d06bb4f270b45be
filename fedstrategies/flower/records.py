"""Flower records <-> our blobs, control fields and client state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedstrategies.flower.receipts import Receipts

__all__ = [
    "CONTROL",
    "LEDGER",
    "blob_of",
    "load_memory",
    "load_receipts",
    "raw_array",
    "records_of",
    "save_state",
    "single_config",
    "tensor_of",
    "to_arrays",
]

CONTROL = "fedstrategies"
"""Key of the control fields in a message's config, and of our records in ``context.state``."""

LEDGER = "fedstrategies.ledger"
"""Key beside it, for private clients: an account in requests, a ledger in replies."""

_MEMORY = "fedstrategies.memory"
_RECEIPTS = "receipts"

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)
_STYPE = "fedstrategies.raw"


def raw_array(blob: bytes) -> Array:
    """A blob as a Flower `Array` without numpy's 128-byte header (and 18 us to parse it)."""
    return Array(dtype="uint8", shape=(len(blob),), stype=_STYPE, data=blob)


def blob_of(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an `Array` made by `raw_array`, as uint8.

    Raises
    ------
    ValueError
        If it is anything else; nothing else is ever parsed.
    """
    if array.stype != _STYPE:
        raise ValueError(f"expected a blob of type {_STYPE!r}, got {array.stype!r}")
    return np.frombuffer(array.data, dtype=np.uint8)


def records_of(content: RecordDict, kind: type[_Record]) -> list[_Record]:
    """The records of one kind (upstream's properties build a checked dictionary each time)."""
    return [record for record in content.values() if isinstance(record, kind)]


def single_config(content: RecordDict) -> ConfigRecord:
    """The ConfigRecord of a message that carries our control fields.

    Raises
    ------
    ValueError
        If there is none: the message is not from one of this suite's strategies.
    """
    for record in records_of(content, ConfigRecord):
        if CONTROL in record:
            return record
    raise ValueError(
        "the message carries no fedstrategies control fields; this client works with the "
        "matching fedstrategies strategy on the server"
    )


def to_arrays(named: Mapping[str, Tensor], kept: ArrayRecord | None = None) -> ArrayRecord:
    """User-facing arrays: ``named`` in the order and with the other entries of ``kept``."""
    fresh = {name: Array(value.detach().cpu().numpy()) for name, value in named.items()}
    if kept is None:
        return ArrayRecord(fresh)
    return ArrayRecord({name: fresh.get(name, array) for name, array in kept.items()})


def tensor_of(array: Array) -> Tensor:
    """A user-facing array as a tensor that owns its memory."""
    return torch.from_numpy(np.ascontiguousarray(array.numpy()))


def save_state(state: RecordDict, receipts: Receipts, memory: Mapping[str, Tensor] | None) -> None:
    """Replace our records in a client's state; ``memory=None`` leaves the stored one.

    Records are replaced, never mutated: engines hand out shallow copies of the state.
    """
    state[CONTROL] = ConfigRecord({_RECEIPTS: receipts.to_bytes()})
    if memory is not None:
        state[_MEMORY] = ArrayRecord({name: _pack(value) for name, value in memory.items()})


def load_receipts(state: RecordDict) -> Receipts:
    """A client's receipts; those of a newborn client if it has none."""
    config = state.get(CONTROL)
    if not isinstance(config, ConfigRecord):
        return Receipts()
    packed = config[_RECEIPTS]
    assert isinstance(packed, bytes)
    return Receipts.from_bytes(packed)


def load_memory(state: RecordDict) -> dict[str, Tensor] | None:
    """A client's memory, each tensor of shape (1, d) and owned by the caller; None if newborn."""
    record = state.get(_MEMORY)
    if not isinstance(record, ArrayRecord):
        return None
    return {name: _unpack(array) for name, array in record.items()}


def _pack(value: Tensor) -> Array:
    array = np.ascontiguousarray(value.detach().cpu().numpy())
    return Array(
        dtype=array.dtype.str, shape=tuple(array.shape), stype=_STYPE, data=array.tobytes()
    )


def _unpack(array: Array) -> Tensor:
    flat = np.frombuffer(array.data, dtype=np.dtype(array.dtype)).copy()
    return torch.from_numpy(flat.reshape(tuple(array.shape)))
