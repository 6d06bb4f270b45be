"""The bundled set, read without scikit-learn: the package's first run needs no extra."""

from __future__ import annotations

import lzma
from importlib.resources import files

import torch

from fedstrategies.data.dataset import Dataset

__all__ = ["bundled_mushrooms"]

_DIMENSION = 112


def bundled_mushrooms() -> Dataset:
    """The UCI Mushroom set in LIBSVM's version: 8124 rows of 112 features 0 or 1, labels 1 and 2.

    The file is known to be sound; any other LIBSVM file is for `read_libsvm`.

    Returns
    -------
    Dataset
        Features (8124, 112) and labels (8124,), float64; the same as `read_libsvm` gives.
    """
    packed = (files("fedstrategies.data") / "mushrooms.xz").read_bytes()
    lines = [line.split() for line in lzma.decompress(packed).decode("ascii").splitlines()]
    features = torch.zeros((len(lines), _DIMENSION), dtype=torch.float64)
    rows = [row for row, (_, *pairs) in enumerate(lines) for _ in pairs]
    pairs = [pair.split(":") for _, *pairs in lines for pair in pairs]
    columns = torch.tensor([int(index) - 1 for index, _ in pairs])
    features[torch.tensor(rows), columns] = torch.tensor(
        [float(value) for _, value in pairs], dtype=torch.float64
    )
    labels = torch.tensor([float(label) for label, *_ in lines], dtype=torch.float64)
    return Dataset(features=features, labels=labels, name="mushrooms")
