"""CIFAR-10's binary batches, plain or compressed.

Source of the format: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
binary version: records of one label byte and 3072 bytes of pixels, the red plane, then the green
and the blue one, each 32 x 32 in row-major order. Nothing else: no header, no padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import UNREADABLE, find_packed, one_line, open_packed

__all__ = ["is_cifar10_folder", "read_cifar10"]

_IMAGE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS
_CLASSES = 10
_TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
_CHUNK_BYTES = 2**24
# Ten times what a batch of CIFAR-10 has: a small packed file must not fill the memory.
_MOST_RECORDS = 100_000


def is_cifar10_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with a training batch of CIFAR-10."""
    return path.is_dir() and any(find_packed(path, name) for name in _TRAINING)


def read_cifar10(path: str | Path, *, name: str | None = None) -> Dataset:
    """Read a folder of CIFAR-10's binary version.

    Parameters
    ----------
    path : str or Path
        A folder with ``data_batch_1.bin`` to ``data_batch_5.bin``, optionally
        ``test_batch.bin`` (the test split); each plain or with the ending ``.xz``, ``.gz`` or
        ``.bz2``, plain first if there are several.
    name : str, optional
        Name of the data set; by default the folder's.

    Returns
    -------
    Dataset
        Features float32, shape (N, 3072), pixels scaled to [0, 1], of images (3, 32, 32);
        labels int64, shape (N,), 0 to 9. The batches follow each other.

    Raises
    ------
    DataError
        If a batch is missing or damaged, is empty or no whole number of records, has a label
        above 9, or has more than 100,000 records.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: not a folder; expected {_TRAINING[0]}[.gz] and its like in it")
    features, labels = _split(path, _TRAINING)
    test = _split(path, (_TEST,)) if find_packed(path, _TEST) else None
    return Dataset(
        features=features,
        labels=labels,
        name=name or path.absolute().name,
        test=test,
        image=_IMAGE,
    )


def _split(folder: Path, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    batches = []
    for name in names:
        found = find_packed(folder, name)
        if found is None:
            raise DataError(f"{folder}: no {name} in it, plain or .xz, .gz, .bz2")
        batches.append(_records(found))
    records = torch.cat(batches)
    features = records[:, 1:].to(torch.float32).div_(255.0)
    return features, records[:, 0].to(torch.int64)


def _records(path: Path) -> Tensor:
    """uint8, shape (count, 3073)."""
    try:
        with open_packed(path) as stream:
            content = _content(stream, path)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    count, rest = divmod(len(content), _RECORD)
    if rest or not count:
        raise DataError(
            f"{path}: {len(content)} bytes are {count} records of {_RECORD} and {rest} more; "
            "expected CIFAR-10's binary version, complete"
        )
    records = torch.frombuffer(content, dtype=torch.uint8).reshape(count, _RECORD)
    wrong = (records[:, 0] >= _CLASSES).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{path}: record {first} has the label {int(records[first, 0])}; "
            f"CIFAR-10 has the classes 0 to {_CLASSES - 1}"
        )
    return records


def _content(stream: IO[bytes], path: Path) -> bytearray:
    # In chunks: there is no header, so nothing else says how much a packed file unpacks to.
    content = bytearray()
    while chunk := stream.read(_CHUNK_BYTES):
        content += chunk
        if len(content) > _MOST_RECORDS * _RECORD:
            raise DataError(
                f"{path}: holds more than {_MOST_RECORDS} records of {_RECORD} bytes; "
                "a batch of CIFAR-10 has 10000"
            )
    return content
