"""The short configuration's part of Fashion-MNIST: some images of both splits, as IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

__all__ = ["IMAGES", "part_of"]

IMAGES = 12_000
_SPLITS = {"train": 60_000, "t10k": 10_000}
_SEED = 23
"""The authors' seed; it has no further meaning here."""


def part_of(source: Path, target: Path) -> Path:
    """A folder with `IMAGES` images drawn from both splits together, in one split.

    Training and test images are merged, as in the authors' set-up, because each client holds out
    images of its own.

    Raises
    ------
    ValueError
        If ``source`` is not the folder of Fashion-MNIST's four IDX files.
    """
    if (target / "train-labels-idx1-ubyte").exists():
        return target
    missing = [name for name in _names(source) if not name.exists()]
    if missing:
        raise ValueError(f"{missing[0]}: no such file; --data DIR holds fashion-mnist/")
    chosen = np.random.default_rng(_SEED).permutation(sum(_SPLITS.values()))[:IMAGES]
    images = np.concatenate([_items(source, split, "images-idx3", 784) for split in _SPLITS])
    labels = np.concatenate([_items(source, split, "labels-idx1", 1) for split in _SPLITS])
    target.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">IIII", 2051, IMAGES, 28, 28)
    (target / "train-images-idx3-ubyte").write_bytes(head + images[chosen].tobytes())
    head = struct.pack(">II", 2049, IMAGES)
    (target / "train-labels-idx1-ubyte").write_bytes(head + labels[chosen].tobytes())
    return target


def _names(source: Path) -> list[Path]:
    kinds = ("images-idx3", "labels-idx1")
    return [source / f"{split}-{kind}-ubyte.gz" for split in _SPLITS for kind in kinds]


def _items(source: Path, split: str, kind: str, size: int) -> np.ndarray:
    with gzip.open(source / f"{split}-{kind}-ubyte.gz") as file:
        file.read(16 if size > 1 else 8)
        return np.frombuffer(file.read(), dtype=np.uint8).reshape(_SPLITS[split], size)
