"""MNIST-style folders: images and labels as IDX files, plain or compressed.

Source of the format: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten
digits": two zero bytes, a type code (8: unsigned byte), the number of axes, their lengths as
big-endian 32-bit integers, then the bytes in row-major order.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import UNREADABLE, find_packed, one_line, open_packed

__all__ = ["is_idx_folder", "read_idx"]

_LIMIT_BYTES = 16 * 2**30
_CHUNK_BYTES = 2**24
_UNSIGNED_BYTE = 8
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def is_idx_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with the training images of an IDX data set."""
    return path.is_dir() and find_packed(path, f"train-{_IMAGES}") is not None


def read_idx(path: str | Path, *, name: str | None = None) -> Dataset:
    """Read a folder of IDX files such as MNIST's or Fashion-MNIST's.

    Parameters
    ----------
    path : str or Path
        A folder with ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, optionally
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte`` (the test split); each plain
        or with the ending ``.xz``, ``.gz`` or ``.bz2``, plain first if there are several.
    name : str, optional
        Name of the data set; by default the folder's.

    Returns
    -------
    Dataset
        Features float32, shape (N, height * width), pixels scaled to [0, 1]; labels int64,
        shape (N,).

    Raises
    ------
    DataError
        If a file is missing, damaged or not what its header says, if images and labels or the
        two splits do not fit each other, or if the features would take more than 16 GiB.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: not a folder; expected train-{_IMAGES}[.gz] and its like in it")
    train, labels, image = _split(path, "train")
    test = None
    if any(find_packed(path, f"t10k-{kind}") for kind in (_IMAGES, _LABELS)):
        test_images, test_labels, test_image = _split(path, "t10k")
        if test_image != image:
            raise DataError(
                f"{path}: training images are {image[0]} x {image[1]} pixels, "
                f"test images {test_image[0]} x {test_image[1]}"
            )
        test = test_images, test_labels
    return Dataset(
        features=train,
        labels=labels,
        name=name or path.absolute().name,
        test=test,
        image=(1, *image),
    )


def _split(folder: Path, prefix: str) -> tuple[Tensor, Tensor, tuple[int, int]]:
    paths = []
    for kind in (_IMAGES, _LABELS):
        found = find_packed(folder, f"{prefix}-{kind}")
        if found is None:
            raise DataError(f"{folder}: no {prefix}-{kind} in it, plain or .xz, .gz, .bz2")
        paths.append(found)
    images, labels = _read(paths[0], axes=3), _read(paths[1], axes=1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {prefix} images, {len(labels)} labels")
    features = images.flatten(start_dim=1).to(torch.float32).div_(255.0)
    return features, labels.to(torch.int64), (images.shape[1], images.shape[2])


def _read(path: Path, *, axes: int) -> Tensor:
    """uint8, of the shape that the header states."""
    try:
        with open_packed(path) as stream:
            shape = _header(stream, path, axes)
            content = _exactly(stream, path, math.prod(shape))
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _header(stream: IO[bytes], path: Path, axes: int) -> tuple[int, ...]:
    expected = bytes((0, 0, _UNSIGNED_BYTE, axes))
    header = stream.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:4] != expected:
        raise DataError(
            f"{path}: begins with {header[:4].hex(' ') or 'nothing'}, not with "
            f"{expected.hex(' ')} and the lengths of {axes} axes; expected IDX unsigned bytes"
        )
    shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))
    size = " x ".join(map(str, shape))
    if 0 in shape:
        raise DataError(f"{path}: says that it holds {size} values, hence none")
    if 4 * math.prod(shape) > _LIMIT_BYTES:
        raise DataError(
            f"{path}: says that it holds {size} values, as float32 above the limit of "
            f"{_LIMIT_BYTES // 2**30} GiB"
        )
    return shape


def _exactly(stream: IO[bytes], path: Path, count: int) -> bytearray:
    # In chunks: a stream asked for all at once allocates what a false header promises.
    content = bytearray()
    while len(content) < count and (chunk := stream.read(min(_CHUNK_BYTES, count - len(content)))):
        content += chunk
    if len(content) < count:
        raise DataError(f"{path}: ends after {len(content)} of {count} values")
    if stream.read(1):
        raise DataError(f"{path}: goes on after the {count} values that its header announces")
    return content
