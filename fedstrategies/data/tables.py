"""Tables of Hugging Face's `datasets` as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fedstrategies.data.arrays import as_features, as_groups, as_labels
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import one_line

if TYPE_CHECKING:
    import datasets

__all__ = ["dataset_from_huggingface"]

_BRIGHTEST = 255.0


def dataset_from_huggingface(
    table: datasets.Dataset,
    *,
    features: str | Sequence[str],
    label: str,
    group: str | None = None,
    name: str = "table",
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set from the rows of a table, in their order; a whole split or one client's part.

    Parameters
    ----------
    table : datasets.Dataset
        N rows of one split.
    features : str or sequence of str
        One column of images, vectors or arrays of one shape; or several columns of numbers, which
        become (N, d). Images of 8 bits become (N, C, H, W) in [0, 1].
    label : str
        The column of labels. Those of a ``ClassLabel`` keep their numbers, so that the parts of
        all clients agree, and their names; others are as in `dataset_from_numpy`.
    group : str, optional
        The column, of whole numbers or texts, that says which natural client a row is of.
    name : str
        What errors and results call the data.
    dtype : torch.dtype
        Of the features; see `dataset_from_numpy`.

    Returns
    -------
    Dataset
        Everything in memory.

    Raises
    ------
    DataError
        If it is no single split, a column is not there, or its values cannot be used.

    Examples
    --------
    >>> import datasets
    >>> table = datasets.Dataset.from_dict({"a": [1.0, 2.0], "b": [0, 1], "y": [3, 4]})
    >>> dataset_from_huggingface(table, features=["a", "b"], label="y").features.tolist()
    [[1.0, 0.0], [2.0, 1.0]]
    """
    _check_table(table, name)
    several = not isinstance(features, str)
    chosen = [features] if isinstance(features, str) else list(features)
    wanted = [*chosen, label, *([group] if group else ())]
    for column in wanted:
        if column not in table.column_names:
            known = ", ".join(table.column_names)
            raise DataError(f"{name}: no column {column!r}; there are {known}")
    if not chosen or label in chosen or group in chosen:
        raise DataError(f"{name}: columns of features are needed, other than label and group")
    rows = table.select_columns(sorted({*wanted})).with_format("numpy")[:]
    for column in wanted:
        _check_complete(rows[column], column, name)
    values = (
        np.stack([_numbers(rows[column], column, name) for column in chosen], axis=1)
        if several
        else _pixels(rows[chosen[0]], table, chosen[0], name)
        if type(table.features[chosen[0]]).__name__ == "Image"
        else _stacked(rows[chosen[0]], chosen[0], name)
    )
    targets, names = as_labels(rows[label], name=name, dtype=dtype)
    kind = table.features[label]
    if type(kind).__name__ == "ClassLabel":
        names = tuple(kind.names)
        if len(targets) and int(targets.min()) < 0:
            raise DataError(f"{name}: rows without a label (class -1); drop them")
    groups, group_names = (None, ()) if group is None else as_groups(rows[group], name=name)
    return Dataset(
        features=as_features(values, name=name, dtype=dtype),
        labels=targets,
        name=name,
        groups=groups,
        group_names=group_names,
        class_names=names,
    )


def _check_table(table: Any, name: str) -> None:
    if isinstance(table, dict):  # a DatasetDict
        raise DataError(f"{name} holds the splits {', '.join(map(str, table))}; give one of them")
    if not (hasattr(table, "select_columns") and hasattr(table, "__len__")):
        raise DataError(
            f"{name}: a datasets.Dataset is needed, got {type(table).__name__}; a stream must be "
            "read into one first"
        )
    if not len(table):
        raise DataError(f"{name} has no rows")


def _check_complete(values: npt.NDArray[Any], column: str, name: str) -> None:
    """Where a value is missing, numpy has None, or NaN among objects."""
    if values.dtype.kind != "O" or values.ndim != 1:
        return
    missing = [row for row, one in enumerate(values) if one is None or _is_nan(one)]
    if missing:
        raise DataError(
            f"{name}: column {column!r} has {len(missing)} missing value(s), the first in row "
            f"{missing[0]}; fill or drop them"
        )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and isnan(value)


def _numbers(values: npt.NDArray[Any], column: str, name: str) -> npt.NDArray[Any]:
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: column {column!r} holds {values.dtype} of shape {values.shape[1:]} a row; "
            "one of several columns of features must hold one number a row"
        )
    return values.astype(np.float64)


def _stacked(values: npt.NDArray[Any], column: str, name: str) -> npt.NDArray[Any]:
    if values.ndim < 2 or values.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: column {column!r} does not hold arrays of numbers of one shape (as an array: "
            f"{values.dtype} of shape {values.shape}); map it to such, or name several columns"
        )
    return values


def _pixels(
    values: npt.NDArray[Any], table: datasets.Dataset, column: str, name: str
) -> npt.NDArray[Any]:
    """Images (N, C, H, W) from (N, H, W) or (N, H, W, C)."""
    if values.dtype != np.uint8 or values.ndim not in (3, 4):
        try:
            shapes = sorted({np.asarray(image).shape for image in values})[:3]
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: column {column!r} ({one_line(error)})") from error
        raise DataError(
            f"{name}: column {column!r} does not hold images of 8 bits and one shape "
            f"({values.dtype}, shapes {', '.join(map(str, shapes))}); resize and convert them first"
        )
    channels = values[:, None] if values.ndim == 3 else np.moveaxis(values, 3, 1)
    return channels / np.float32(_BRIGHTEST)
