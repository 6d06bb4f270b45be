"""Data sets by name or path."""

from __future__ import annotations

from pathlib import Path

import torch

from fedstrategies.data.archive import is_tar
from fedstrategies.data.cifar import is_cifar10_folder, read_cifar10
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.idx import is_idx_folder, read_idx
from fedstrategies.data.libsvm import read_libsvm
from fedstrategies.data.mushrooms import bundled_mushrooms
from fedstrategies.data.npz import is_npz, read_npz
from fedstrategies.data.shakespeare import DEFAULT_SEQUENCE_LENGTH, read_shakespeare
from fedstrategies.extras import install_hint

__all__ = ["BUNDLED", "load_dataset"]

BUNDLED = ("mushrooms", "digits")
"""Names that `load_dataset` knows; neither needs a network."""


def load_dataset(
    name_or_path: str | Path, *, sequence_length: int = DEFAULT_SEQUENCE_LENGTH
) -> Dataset:
    """Load a bundled data set by name, or the data at a path.

    A pure function of its arguments and the files' content, so that a caller may cache it.

    Parameters
    ----------
    name_or_path : str or Path
        ``mushrooms`` (8124 x 112, labels 1 and 2; UCI, LIBSVM's version, CC BY 4.0),
        ``digits`` (scikit-learn's 1797 x 64, ten classes, scaled to [0, 1]), or a path. A
        name wins over a file of that name in the working directory; write ``./mushrooms``
        for the file. A path is, by what it holds, a folder of IDX files (`read_idx`) or of
        CIFAR-10's binary batches (`read_cifar10`), a folder or a tar archive of plays in XML
        (`read_shakespeare`), a file of numpy's arrays (`read_npz`), or else a LIBSVM file
        (`read_libsvm`).
    sequence_length : int
        Characters of a row of text; other data do not ask for it.

    Returns
    -------
    Dataset
        As the reader describes it; ``digits`` has features (1797, 64) float64 and labels int64.

    Raises
    ------
    DataError
        If there is nothing at the path, or as its reader.
    """
    if name_or_path == "mushrooms":
        return bundled_mushrooms()
    if name_or_path == "digits":
        return _digits()
    path = Path(name_or_path)
    if not path.exists():
        raise DataError(f"{path}: no such file, nor one of the names {', '.join(BUNDLED)}")
    if is_idx_folder(path):
        return read_idx(path)
    if is_cifar10_folder(path):
        return read_cifar10(path)
    if path.is_dir():
        if next(path.rglob("*.xml"), None) is None:
            raise DataError(
                f"{path}: is a directory with neither train-images-idx3-ubyte nor "
                "data_batch_1.bin (plain or packed) nor plays (*.xml) in it"
            )
        return read_shakespeare(path, sequence_length=sequence_length)
    if is_tar(path):
        return read_shakespeare(path, sequence_length=sequence_length)
    if is_npz(path):
        return read_npz(path)
    return read_libsvm(path)


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"digits is scikit-learn's own data set; {install_hint('data')}") from error
    images, targets = load_digits(return_X_y=True)
    return Dataset(
        features=torch.from_numpy(images / 16.0),
        labels=torch.from_numpy(targets).to(torch.int64),
        name="digits",
        image=(1, 8, 8),
    )
