"""LIBSVM text, plain or compressed, as dense float64 features.

Source of the format: C.-C. Chang, C.-J. Lin, "LIBSVM: a library for support vector machines"
(2011): one example a line, ``label index:value index:value ...``. The parsing is
scikit-learn's; this module opens the file and turns whatever goes wrong into one line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import UNREADABLE, one_line, open_packed, short_name
from fedstrategies.extras import install_hint

__all__ = ["read_libsvm"]

_DENSE_LIMIT_BYTES = 16 * 2**30
_EXPECTED = "expected LIBSVM text, one 'label index:value ...' a line"


def read_libsvm(path: str | Path, *, name: str | None = None) -> Dataset:
    """Read a LIBSVM file; xz, gzip and bzip2 are recognised by their first bytes.

    Feature indices start at 1 unless an index 0 occurs (then at 0).

    Parameters
    ----------
    path : str or Path
        The file.
    name : str, optional
        Name of the data set; by default the file's, without ``.xz``, ``.txt`` and the like.

    Returns
    -------
    Dataset
        Features (N, d) and labels (N,), float64.

    Raises
    ------
    DataError
        If the file is missing, a directory, empty, damaged or not LIBSVM, holds a number
        that is not finite, or would be too large as a dense array; or if scikit-learn is
        not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a directory; {_EXPECTED}")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    features, labels = _parse(path)
    if not np.isfinite(labels).all() or not np.isfinite(features).all():
        raise DataError(f"{path}: contains a label or value that is not finite")
    return Dataset(
        features=torch.from_numpy(features),
        labels=torch.from_numpy(labels),
        name=short_name(path, ".txt", ".libsvm", ".svm") if name is None else name,
    )


def _parse(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError as error:
        raise DataError(
            f"{path}: reading LIBSVM needs scikit-learn; {install_hint('data')}"
        ) from error
    try:
        with open_packed(path) as stream:
            if not stream.read(1):
                raise DataError(f"{path}: is empty; {_EXPECTED}")
            stream.seek(0)
            sparse, labels = load_svmlight_file(stream, dtype=np.float64)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{path}: not LIBSVM ({one_line(error)}); {_EXPECTED}") from error
    rows, columns = sparse.shape
    if sparse.nnz == 0:
        raise DataError(f"{path}: no feature in {rows} line(s); {_EXPECTED}")
    if rows * columns * 8 > _DENSE_LIMIT_BYTES:
        raise DataError(
            f"{path}: {rows} x {columns} dense float64 features take "
            f"{rows * columns * 8 / 2**30:.0f} GiB, above the limit of "
            f"{_DENSE_LIMIT_BYTES // 2**30} GiB; take fewer features or rows"
        )
    return sparse.toarray(), np.asarray(labels, dtype=np.float64)
