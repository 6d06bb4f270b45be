"""Norms of rows and columns of a weight, whole and on random subsets.

The subsets of stochRIA: row k looks at ``ceil(share * in)`` of its entries, column j at
``ceil(share * out)`` of its. Drawn without replacement, once, as a function of a seed and the
weight's name.
"""

from __future__ import annotations

from binascii import crc32
from dataclasses import dataclass
from math import ceil, inf

import torch
from torch import Tensor

from fedstrategies.random import (
    Purpose,
    client_keys,
    derived_keys,
    sample_without_replacement,
)

__all__ = ["Subsets", "line_norms"]

_ROWS, _COLUMNS = 0, 1
# Lines at work at a time: what a subset gathers is as large as the lines it is taken from.
_AT_A_TIME = 1 << 22
_ROWS_AT_A_TIME = 16


def line_norms(matrix: Tensor, axis: int, p: float) -> Tensor:
    """``||.||_p`` of each row (axis 1 is summed) or column (axis 0 is).

    Parameters
    ----------
    matrix : Tensor
        Floating-point, shape (out, in).
    axis : int
        The axis that is summed over.
    p : float
        At least 1, or infinity.

    Notes
    -----
    For p other than 1 and infinity a line is divided by its largest entry first: the square of
    1e-20 is no float32.
    """
    across = matrix if axis == 0 else matrix.T
    if p == 1.0 and across.stride(1) == 1 and across.device.type == "cpu":
        return _sums_of_rows(across)
    if p in (1.0, inf):
        whole: Tensor = torch.linalg.vector_norm(matrix, ord=p, dim=axis)
        return whole
    largest = matrix.abs().amax(dim=axis, keepdim=True)
    safe = torch.where(largest > 0, largest, torch.ones_like(largest))
    norms: Tensor = torch.linalg.vector_norm(matrix / safe, ord=p, dim=axis)
    return norms * largest.squeeze(axis)


def _sums_of_rows(matrix: Tensor) -> Tensor:
    """``sum_k |W_k:|``, some rows at a time: torch's own takes eight times as long."""
    sums = matrix.new_zeros(matrix.shape[1])
    for start in range(0, len(matrix), _ROWS_AT_A_TIME):
        sums += matrix[start : start + _ROWS_AT_A_TIME].abs().sum(0)
    return sums


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """Which entries of each row and column a norm is taken of.

    Attributes
    ----------
    share : float
        beta in (0, 1].
    seed : int
        Of the draws.
    shared : bool
        One subset for all rows and one for all columns, in place of one for each. A line's norm
        has the same law either way; those of two lines are no longer independent, and the draws
        cost next to nothing.

    Raises
    ------
    ValueError
        If the share is outside.
    """

    share: float
    seed: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share = {self.share}: a subset's share is above 0 and at most 1")

    def size(self, dimension: int) -> int:
        """``ceil(share * dimension)``."""
        return min(dimension, ceil(self.share * dimension))

    def row_norms(self, matrix: Tensor, p: float, *, name: str) -> Tensor:
        """Norms of the rows on their subsets: shape (out,).

        A row that is zero on its subset has its whole norm.
        """
        return self._norms(matrix, p, self._keys(len(matrix), name, _ROWS))

    def column_norms(self, matrix: Tensor, p: float, *, name: str) -> Tensor:
        """Norms of the columns on their subsets: shape (in,); see `row_norms`."""
        return self._norms(matrix.T, p, self._keys(matrix.shape[1], name, _COLUMNS))

    def _keys(self, lines: int, name: str, label: int) -> Tensor:
        count = 1 if self.shared else lines
        keys = client_keys(self.seed, label, torch.arange(count), Purpose.PRUNING)
        return derived_keys(keys, crc32(name.encode()))

    def _norms(self, lines: Tensor, p: float, keys: Tensor) -> Tensor:
        dimension = lines.shape[1]
        size = self.size(dimension)
        if size == dimension:
            return line_norms(lines, 1, p)
        if self.shared:
            chosen = sample_without_replacement(keys, dimension, size)[0].to(lines.device)
            if lines.stride(1) == 1:
                norms = line_norms(lines.index_select(1, chosen), 1, p)
            else:  # columns: the rows that are looked at lie together in memory
                norms = line_norms(lines.T.index_select(0, chosen), 0, p)
        else:
            norms = _own_norms(lines, p, keys, size)
        empty = (norms == 0).nonzero()[:, 0]
        if len(empty):
            norms[empty] = line_norms(lines[empty], 1, p)
        return norms


def _own_norms(lines: Tensor, p: float, keys: Tensor, size: int) -> Tensor:
    count, dimension = lines.shape
    norms = lines.new_empty(count)
    step = max(1, _AT_A_TIME // dimension)
    for start in range(0, count, step):
        some = lines[start : start + step]
        chosen = sample_without_replacement(keys[start : start + step], dimension, size)
        gathered = some.gather(1, chosen.to(lines.device))
        norms[start : start + step] = line_norms(gathered, 1, p)
    return norms
