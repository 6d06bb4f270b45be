"""Arrays in one file, as `numpy.savez` writes them: one's own data on the command line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedstrategies.data.arrays import dataset_from_numpy
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import UNREADABLE, one_line, short_name

__all__ = ["is_npz", "read_npz"]

_NEEDED = ("features", "labels")
_KNOWN = (*_NEEDED, "test_features", "test_labels", "groups")
_BRIGHTEST = 255


def is_npz(path: Path) -> bool:
    """Whether ``path`` is a file of several numpy arrays, whatever its name says."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def read_npz(path: str | Path, *, name: str | None = None) -> Dataset:
    """Read the arrays ``features`` and ``labels``, and more if they are there.

    Written by ``numpy.savez("mine.npz", features=..., labels=...)``. Arrays of objects are pickles
    and are refused.

    Parameters
    ----------
    path : str or Path
        The file. ``features`` has shape (N, d), or is images, (N, H, W) or (N, C, H, W). Bytes
        (uint8) are scaled to [0, 1]. ``labels`` and ``groups`` (optional: the natural client of
        each row) are as in `dataset_from_numpy`, and ``test_features`` and ``test_labels``
        (optional, both) the test split.
    name : str, optional
        Name of the data set; by default the file's.

    Returns
    -------
    Dataset
        Features (N, d), images flattened; float64 where the file has that, else float32.

    Raises
    ------
    DataError
        If the file is missing or damaged, an array is not there, unknown, or as
        `dataset_from_numpy` refuses it.
    """
    path = Path(path)
    arrays = _arrays(path)
    if missing := [key for key in _NEEDED if key not in arrays]:
        raise DataError(
            f"{path}: no array {missing[0]!r}; there are {', '.join(arrays) or 'none'}; "
            "write it with numpy.savez(FILE, features=..., labels=...)"
        )
    if unknown := [key for key in arrays if key not in _KNOWN]:
        raise DataError(f"{path}: array {unknown[0]!r} is none of {', '.join(_KNOWN)}")
    if ("test_features" in arrays) != ("test_labels" in arrays):
        raise DataError(f"{path}: a test split needs both test_features and test_labels")
    image = _image(arrays["features"], path)
    features = _rows(arrays["features"])
    test = None
    if "test_features" in arrays:
        if arrays["test_features"].shape[1:] != arrays["features"].shape[1:]:
            raise DataError(
                f"{path}: rows of shape {arrays['features'].shape[1:]}, test rows of "
                f"{arrays['test_features'].shape[1:]}"
            )
        test = _rows(arrays["test_features"]), arrays["test_labels"]
    data = dataset_from_numpy(
        features,
        arrays["labels"],
        groups=arrays.get("groups"),
        test=test,
        name=short_name(path, ".npz") if name is None else name,
        dtype=torch.float64 if features.dtype == np.float64 else torch.float32,
    )
    return Dataset(
        features=data.features,
        labels=data.labels,
        name=data.name,
        test=data.test,
        groups=data.groups,
        group_names=data.group_names,
        image=image,
        class_names=data.class_names,
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ValueError, zipfile.BadZipFile, *UNREADABLE) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _image(features: npt.NDArray[Any], path: Path) -> tuple[int, int, int] | None:
    match features.shape[1:]:
        case (height, width):
            return 1, height, width
        case (channels, height, width):
            return channels, height, width
        case (_,):
            return None
    raise DataError(
        f"{path}: features of shape {features.shape}; (N, d), (N, H, W) or (N, C, H, W) is needed"
    )


def _rows(features: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = features.reshape(len(features), -1)
    return flat / np.float32(_BRIGHTEST) if features.dtype == np.uint8 else flat
