"""numpy arrays as a data set; what the other sources of data come down to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError

__all__ = ["as_features", "as_groups", "as_labels", "dataset_from_numpy"]

Array = npt.NDArray[Any]

_DTYPES: dict[torch.dtype, npt.DTypeLike] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
}
_SHOWN = 5


def dataset_from_numpy(
    features: Array,
    labels: Array,
    *,
    groups: Array | None = None,
    test: tuple[Array, Array] | None = None,
    name: str = "arrays",
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set from arrays in memory. They are copied; nothing is scaled.

    Parameters
    ----------
    features : ndarray
        Shape (N, ...), numbers, one row an example: (N, d) measurements, (N, C, H, W) images.
    labels : ndarray
        Shape (N,), or (N, ...) where an example has several. Whole numbers and booleans become
        int64, floats (a regression's targets) ``dtype``. Texts become the classes 0..K-1 in
        sorted order, named in `Dataset.class_names`.
    groups : ndarray, optional
        Shape (N,), whole numbers or texts: the natural client of each row.
    test : tuple of (ndarray, ndarray), optional
        Features and labels of a test split.
    name : str
        What errors and results call the data.
    dtype : torch.dtype
        Of the features: float32; float64, which convex problems want to be solved to more than
        six digits; or int64, for indices of characters or tokens.

    Returns
    -------
    Dataset
        With features of ``dtype``, whatever that of the array is.

    Raises
    ------
    DataError
        If the parts do not fit, a value is not finite or not a number, or the test split has a
        label that no training row has.

    Examples
    --------
    >>> import numpy as np
    >>> data = dataset_from_numpy(np.eye(3), np.array(["oak", "elm", "oak"]))
    >>> data.features.dtype, data.labels.tolist(), data.class_names
    (torch.float32, [1, 0, 1], ('elm', 'oak'))
    """
    targets, names = as_labels(labels, name=name, dtype=dtype)
    held_out = None
    if test is not None:
        where = f"{name} (test)"
        kept, _ = as_labels(test[1], name=where, dtype=dtype, names=names)
        held_out = as_features(test[0], name=where, dtype=dtype), kept
        if len(held_out[0]) != len(kept):
            raise DataError(f"{where}: {len(kept)} labels for {len(held_out[0])} rows")
    rows, group_names = (None, ()) if groups is None else as_groups(groups, name=name)
    return Dataset(
        features=as_features(features, name=name, dtype=dtype),
        labels=targets,
        name=name,
        test=held_out,
        groups=rows,
        group_names=group_names,
        class_names=names,
    )


def as_features(values: Array, *, name: str, dtype: torch.dtype) -> Tensor:
    """Features (N, ...) of ``dtype``; a copy.

    Raises
    ------
    DataError
        If they are not finite numbers in rows, or ``dtype`` cannot hold them.
    """
    if dtype not in _DTYPES:
        raise DataError(f"{name}: dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: features of dtype {values.dtype} are not numbers; encode them, in the same "
            "way for all clients, or make rows of different shapes equal"
        )
    if values.ndim < 2:
        raise DataError(
            f"{name}: features of shape {values.shape}; one row an example is needed, (N, d) or "
            "(N, C, H, W)"
        )
    _check_finite(values, name=name, what="features")
    if dtype == torch.int64 and values.dtype.kind == "f":
        raise DataError(f"{name}: features of dtype {values.dtype} are measurements, not indices")
    return torch.from_numpy(np.array(values, dtype=_DTYPES[dtype], order="C"))


def as_labels(
    values: Array, *, name: str, dtype: torch.dtype, names: tuple[str, ...] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels, and the names of the classes where they are texts (``names``, if these are given).

    Raises
    ------
    DataError
        If they are neither finite numbers nor texts, or a text is none of ``names``.
    """
    values = np.asarray(values)
    if values.dtype.kind in "biu":
        return torch.from_numpy(np.array(values, dtype=np.int64)), ()
    if values.dtype.kind == "f":
        _check_finite(values, name=name, what="labels")
        held = np.float64 if dtype == torch.float64 else np.float32
        return torch.from_numpy(np.array(values, dtype=held)), ()
    _check_texts(values, name=name, what="labels")
    if not names:
        names = tuple(sorted(set(values.reshape(-1).tolist())))
    numbers = {text: number for number, text in enumerate(names)}
    if unknown := sorted(set(values.reshape(-1).tolist()) - {*names}):
        raise DataError(f"{name} has labels that no training row has ({_few(unknown)})")
    found = [numbers[text] for text in values.reshape(-1).tolist()]
    return torch.tensor(found, dtype=torch.int64).reshape(values.shape), names


def as_groups(values: Array, *, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """The natural client of each row as 0..G-1, in sorted order, and their names.

    Raises
    ------
    DataError
        If they are neither whole numbers nor texts.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        _check_texts(values, name=name, what="groups")
        values = values.astype(str)
    found, numbers = np.unique(values, return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), tuple(map(str, found.tolist()))


def _check_finite(values: Array, *, name: str, what: str) -> None:
    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return
    rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    raise DataError(
        f"{name}: {len(rows)} row(s) have {what} that are not finite, the first is row {rows[0]}; "
        "fill or drop them"
    )


def _check_texts(values: Array, *, name: str, what: str) -> None:
    if values.dtype.kind in "UT":
        return
    others = {type(one).__name__ for one in values.reshape(-1).tolist()} - {"str"}
    if values.dtype.kind != "O" or others:
        kinds = ", ".join(sorted(others)) or str(values.dtype)
        raise DataError(f"{name}: {what} must be whole numbers or texts, got {kinds}")


def _few(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
