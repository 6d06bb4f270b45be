"""Data sets by name."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import torch

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.libsvm import read_libsvm

__all__ = ["BUNDLED", "load_dataset"]

BUNDLED = ("mushrooms", "digits")
"""Names that `load_dataset` knows; neither needs a network."""


def load_dataset(name_or_path: str | Path) -> Dataset:
    """Load a bundled data set by name, or a LIBSVM file by path.

    A pure function of its argument and the file's content, so that a caller may cache it.

    Parameters
    ----------
    name_or_path : str or Path
        ``mushrooms`` (8124 x 112, labels 1 and 2; UCI, LIBSVM's version, CC BY 4.0),
        ``digits`` (scikit-learn's 1797 x 64, ten classes, scaled to [0, 1]), or a path. A
        name wins over a file of that name in the working directory; write ``./mushrooms``
        for the file.

    Returns
    -------
    Dataset
        Features (N, d) float64; labels (N,), float64 for LIBSVM, int64 for ``digits``.

    Raises
    ------
    DataError
        As `read_libsvm`.
    """
    if name_or_path == "mushrooms":
        with as_file(files("fedstrategies.data") / "mushrooms.xz") as path:
            return read_libsvm(path)
    if name_or_path == "digits":
        return _digits()
    path = Path(name_or_path)
    if not path.exists():
        raise DataError(f"{path}: no such file, nor one of the names {', '.join(BUNDLED)}")
    return read_libsvm(path)


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits is scikit-learn's own data set; pip install 'fedstrategies[data]'"
        ) from error
    images, targets = load_digits(return_X_y=True)
    return Dataset(
        features=torch.from_numpy(images / 16.0),
        labels=torch.from_numpy(targets).to(torch.int64),
        name="digits",
    )
