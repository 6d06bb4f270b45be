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
from fedstrategies.flower.replica import Replica

__all__ = [
    "CONTROL",
    "DOWNLINK",
    "LEDGER",
    "MEMORY",
    "STYPE",
    "blob_of",
    "bytes_under",
    "load_memory",
    "load_receipts",
    "load_replica",
    "raw_array",
    "records_of",
    "replica_records",
    "save_memory",
    "save_state",
    "single_config",
    "tensor_of",
    "to_arrays",
]

CONTROL = "fedstrategies"
"""Key of the control fields in a message's config, and of our records in ``context.state``."""

LEDGER = "fedstrategies.ledger"
"""Key beside it, for private clients: an account in requests, a ledger in replies."""

DOWNLINK = "fedstrategies.downlink"
"""Key beside it, where the downlink is compressed: how the model is to be rebuilt."""

MEMORY = "fedstrategies.memory"
"""Key of the memory in ``context.state``."""

_REPLICA = "fedstrategies.replica"
_RECEIPTS = "receipts"

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)
STYPE = "fedstrategies.raw"
"""How the ``data`` of our arrays is to be read: the numbers as they lie in memory."""


def raw_array(blob: bytes) -> Array:
    """A blob as a Flower `Array` without numpy's 128-byte header (and 18 us to parse it)."""
    return Array(dtype="uint8", shape=(len(blob),), stype=STYPE, data=blob)


def blob_of(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of an `Array` made by `raw_array`, as uint8.

    Raises
    ------
    ValueError
        If it is anything else; nothing else is ever parsed.
    """
    if array.stype != STYPE:
        raise ValueError(f"expected a blob of type {STYPE!r}, got {array.stype!r}")
    return np.frombuffer(array.data, dtype=np.uint8)


def bytes_under(numbers: npt.NDArray[np.uint8]) -> bytes:
    """The bytes that uint8 numbers are a view of; copied only where they are not all of them."""
    owner = numbers.base
    return owner if isinstance(owner, bytes) and len(owner) == len(numbers) else numbers.tobytes()


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
    # Not ascontiguousarray, which makes an array of shape (1,) of a number of shape ().
    return torch.from_numpy(np.asarray(array.numpy(), order="C"))


def save_state(state: RecordDict, receipts: Receipts, memory: Mapping[str, Tensor] | None) -> None:
    """Replace our records in a client's state; ``memory=None`` leaves the stored one.

    Records are replaced, never mutated: engines hand out shallow copies of the state.
    """
    state[CONTROL] = ConfigRecord({_RECEIPTS: receipts.to_bytes()})
    if memory is not None:
        save_memory(state, memory)


def save_memory(state: RecordDict, memory: Mapping[str, Tensor]) -> None:
    """Replace the memory in a client's state: tensors of shape (1, d), which are copied."""
    state[MEMORY] = ArrayRecord({name: _pack(value) for name, value in memory.items()})


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
    record = state.get(MEMORY)
    if not isinstance(record, ArrayRecord):
        return None
    return {name: _unpack(array) for name, array in record.items()}


def replica_records(replica: Replica) -> dict[str, ArrayRecord | ConfigRecord]:
    """The records by which a client's state says which version of the model it holds.

    They replace those of an earlier version, and clients of one process may share them.
    """
    version = ConfigRecord({"session": replica.session, "number": replica.number})
    return {DOWNLINK: version, _REPLICA: ArrayRecord({"w": _pack(replica.w)})}


def load_replica(state: RecordDict) -> Replica | None:
    """The version of the model that a client holds, owned by the caller; None if there is none."""
    version, record = state.get(DOWNLINK), state.get(_REPLICA)
    if not isinstance(version, ConfigRecord) or not isinstance(record, ArrayRecord):
        return None
    session, number = version["session"], version["number"]
    assert isinstance(session, int)
    assert isinstance(number, int)
    return Replica(session=session, number=number, w=_unpack(record["w"]))


def _pack(value: Tensor) -> Array:
    array = np.ascontiguousarray(value.detach().cpu().numpy())
    return Array(dtype=array.dtype.str, shape=tuple(array.shape), stype=STYPE, data=array.tobytes())


def _unpack(array: Array) -> Tensor:
    flat = np.frombuffer(array.data, dtype=np.dtype(array.dtype)).copy()
    return torch.from_numpy(flat.reshape(tuple(array.shape)))
