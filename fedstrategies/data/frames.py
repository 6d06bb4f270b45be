"""pandas data frames as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from fedstrategies.data.arrays import as_features, as_groups, as_labels
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError

if TYPE_CHECKING:
    import pandas

__all__ = ["dataset_from_pandas"]


def dataset_from_pandas(
    frame: pandas.DataFrame,
    *,
    label: str,
    features: Sequence[str] | None = None,
    group: str | None = None,
    name: str = "frame",
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set from the rows of a frame, in their order.

    Columns of features must be numbers or booleans. Texts, categories and dates are refused: how
    they are encoded is a choice, and all clients must make the same.

    Parameters
    ----------
    frame : pandas.DataFrame
        N rows without missing values.
    label : str
        The column of labels. Whole numbers and booleans become int64, floats ``dtype``; texts
        become the classes 0..K-1 in sorted order, and categories in theirs, whether a row has
        them or not. The names are in `Dataset.class_names`.
    features : sequence of str, optional
        The columns of features, in this order; None: all others.
    group : str, optional
        The column, of whole numbers or texts, that says which natural client a row is of.
    name : str
        What errors and results call the data.
    dtype : torch.dtype
        Of the features; see `dataset_from_numpy`.

    Returns
    -------
    Dataset
        Features (N, d) and labels (N,).

    Raises
    ------
    DataError
        If a column is not there, is there twice, has missing values, or cannot be used.

    Examples
    --------
    >>> import pandas
    >>> frame = pandas.DataFrame({"height": [1.0, 2.5], "tree": ["oak", "elm"]})
    >>> dataset_from_pandas(frame, label="tree").labels.tolist()
    [1, 0]
    """
    if not (hasattr(frame, "columns") and hasattr(frame, "dtypes")):
        raise DataError(f"{name}: a pandas.DataFrame is needed, got {type(frame).__name__}")
    _check_columns(frame, [label, *(features or ()), *([group] if group else ())], name)
    apart = {label, group}
    chosen = [c for c in frame.columns if c not in apart] if features is None else list(features)
    if not chosen:
        raise DataError(f"{name}: there is no column of features")
    if both := apart & {*chosen}:
        raise DataError(f"{name}: column {both.pop()!r} is the label or the group, not a feature")
    for column in (*chosen, label, *([group] if group else ())):
        _check_complete(frame[column], name)
    for column in chosen:
        kind = frame[column].dtype.kind
        if kind not in "biuf":
            raise DataError(
                f"{name}: column {column!r} holds {frame[column].dtype}, not numbers; encode it, "
                "in the same way for all clients, e.g. "
                f"pandas.get_dummies(frame, columns=[{column!r}])"
            )
    targets, class_names = _labels(frame[label], name, dtype)
    groups, group_names = (None, ()) if group is None else _groups(frame[group], name)
    return Dataset(
        features=as_features(frame[chosen].to_numpy(dtype="float64"), name=name, dtype=dtype),
        labels=targets,
        name=name,
        groups=groups,
        group_names=group_names,
        class_names=class_names,
    )


def _labels(
    column: pandas.Series[Any], name: str, dtype: torch.dtype
) -> tuple[torch.Tensor, tuple[str, ...]]:
    if hasattr(column, "cat"):
        codes = column.cat.codes.to_numpy()
        return as_labels(codes, name=name, dtype=dtype)[0], tuple(map(str, column.cat.categories))
    return as_labels(_plain(column), name=name, dtype=dtype)


def _groups(column: pandas.Series[Any], name: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    return as_groups(_plain(column), name=name)


def _plain(column: pandas.Series[Any]) -> Any:
    """As an array of numpy's own kinds: nullable numbers and texts have kinds of pandas'."""
    wanted = {"b": "bool", "i": "int64", "u": "int64", "f": "float64"}
    return column.to_numpy(dtype=wanted.get(column.dtype.kind, object))


def _check_columns(frame: pandas.DataFrame, wanted: Sequence[str], name: str) -> None:
    for column in wanted:
        count = int((frame.columns == column).sum())
        if count > 1:
            raise DataError(f"{name}: {count} columns are called {column!r}")
        if not count:
            known = ", ".join(map(str, frame.columns))
            raise DataError(f"{name}: no column {column!r}; there are {known}")
    if not frame.columns.is_unique:
        raise DataError(f"{name}: two columns have the same name")


def _check_complete(column: pandas.Series[Any], name: str) -> None:
    missing = column.isna()
    if bool(missing.any()):
        raise DataError(
            f"{name}: column {column.name!r} has {int(missing.sum())} missing value(s), the first "
            f"in row {missing.to_numpy().argmax()}; fill or drop them"
        )
