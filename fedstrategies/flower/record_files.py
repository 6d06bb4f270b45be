"""Flower records as safetensors files: no pickle, and no copy of the numbers on the way.

A file is what `safetensors` reads and writes: the length of a header (8 bytes), the header (JSON),
the numbers. The arrays of an ArrayRecord are tensors in it, under their names; what else Flower
knows of them is metadata. Other records are one tensor of bytes, as Flower deflates them.
"""

from __future__ import annotations

import json
import operator
import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import BinaryIO

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from fedstrategies.flower.records import STYPE

__all__ = ["Record", "checksum", "consists_of", "leaves_of", "pack", "read"]

Record = ArrayRecord | ConfigRecord | MetricRecord

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 1 << 24
_AT_ONCE = 1 << 30
"""Bytes that are asked for in one call: those of larger tensors are not held twice."""
_BYTES = "U8"
_DTYPES = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32"}
_KINDS: dict[str, type[ArrayRecord] | type[ConfigRecord] | type[MetricRecord]] = {
    "arrays": ArrayRecord,
    "config": ConfigRecord,
    "metrics": MetricRecord,
}
_ONLY = "record"


def pack(record: Record) -> list[bytes]:
    """The parts of a record's file, in order; joined they are the file."""
    if isinstance(record, ArrayRecord):
        described = {name: _described(array) for name, array in record.items()}
        flower = [[name, a.dtype, list(a.shape), a.stype] for name, a in record.items()]
        metadata = {"kind": "arrays", "arrays": json.dumps(flower)}
        return _parts(described, metadata, [array.data for array in record.values()])
    kind = next(name for name, known in _KINDS.items() if isinstance(record, known))
    body = record.deflate()
    return _parts({_ONLY: (_BYTES, (len(body),))}, {"kind": kind}, [body])


def checksum(parts: Sequence[bytes]) -> int:
    """Adler-32 of a file's parts; a CRC-32 is blind to what frames that end in theirs say."""
    found = 1
    for part in parts:
        found = zlib.adler32(part, found)
    return found


def read(file: BinaryIO, *, size: int, checked: int) -> Record:
    """The record in a file of ``size`` bytes with `checksum` ``checked``.

    Raises
    ------
    ValueError
        If the file is cut, damaged, or another one.
    """
    head = _exactly(file, _LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else _LARGEST_HEADER
    if length > min(size - _LENGTH.size, _LARGEST_HEADER):
        raise ValueError("it is cut or no safetensors file")
    packed = _exactly(file, length)
    found = checksum([head, packed])
    sizes = _sizes(packed) if len(packed) == length else {}
    if sum(sizes.values()) != size - _LENGTH.size - length:
        raise ValueError("it is cut, or not the file that was written")
    data = {}
    for name, count in sizes.items():
        data[name] = _exactly(file, count)
        found = zlib.adler32(data[name], found)
    if found != checked:
        raise ValueError("its checksum is not that of the file that was written")
    try:
        return _record(json.loads(packed), data)
    except Exception as error:  # Flower's readers of records raise what they like
        raise ValueError(f"it holds no record of Flower's ({type(error).__name__})") from error


def leaves_of(record: Record) -> list[object]:
    """What a record is made of, down to what cannot change itself: numbers, text, bytes."""
    leaves: list[object] = [type(record)]
    for name, value in record.items():
        leaves.append(name)
        if isinstance(value, Array):
            leaves += (value.dtype, value.shape, value.stype, value.data)
        elif isinstance(value, list):
            leaves += (list, *value, list)
        else:
            leaves.append(value)
    return leaves


def consists_of(record: Record, leaves: Sequence[object]) -> bool:
    """Whether a record has these leaves: the very objects, so that no numbers are compared."""
    found = leaves_of(record)
    return len(found) == len(leaves) and all(map(operator.is_, found, leaves))


def _exactly(file: BinaryIO, count: int) -> bytes:
    """``count`` bytes; fewer only where the file ends.

    One call of the system gives at most 2,147,479,552, and on shared file systems less than asked.
    """
    found = file.read(min(count, _AT_ONCE))
    if len(found) == count:
        return found
    whole = BytesIO()
    while found:
        whole.write(found)
        found = file.read(min(count - whole.tell(), _AT_ONCE))
    return whole.getvalue()


def _parts(
    described: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    data: Sequence[bytes],
) -> list[bytes]:
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for (name, (dtype, shape)), block in zip(described.items(), data, strict=True):
        end = start + len(block)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % _LENGTH.size)  # the numbers begin at a multiple of 8
    return [_LENGTH.pack(len(packed)) + packed, *data]


def _described(array: Array) -> tuple[str, tuple[int, ...]]:
    """Type and shape by which any reader of safetensors finds the numbers; else bytes."""
    if array.stype == STYPE and array.dtype in _DTYPES:
        return _DTYPES[array.dtype], tuple(array.shape)
    return _BYTES, (len(array.data),)


def _sizes(packed: bytes) -> dict[str, int]:
    """Bytes of each tensor, in the order of the file; `ValueError` for a foreign header."""
    try:
        header = json.loads(packed)
        entries = {name: header[name]["data_offsets"] for name in header if name != "__metadata__"}
        sizes = {name: int(end) - int(start) for name, (start, end) in entries.items()}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("it is no safetensors file") from None
    if any(size < 0 for size in sizes.values()):
        raise ValueError("its header makes no sense")
    return sizes


def _record(header: Mapping[str, Mapping[str, object]], data: Mapping[str, bytes]) -> Record:
    metadata = header["__metadata__"]
    kind = _KINDS[str(metadata["kind"])]
    if kind is not ArrayRecord:
        found = kind.inflate(data[_ONLY])
        assert isinstance(found, ConfigRecord | MetricRecord)
        return found
    arrays = {}
    for name, dtype, shape, stype in json.loads(str(metadata["arrays"])):
        arrays[name] = Array(dtype=dtype, shape=tuple(shape), stype=stype, data=data[name])
    return ArrayRecord(arrays)
