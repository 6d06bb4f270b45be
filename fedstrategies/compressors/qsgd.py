"""QSGD: stochastic rounding to equidistant levels of the norm."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Levels
from fedstrategies.random import uniforms

__all__ = ["QSGD"]


@dataclass(frozen=True, kw_only=True)
class QSGD(Compressor):
    """Round ``s |x_j| / ||x||_2`` to a neighbouring whole level, unbiased.

    ``C(x)_j = ||x||_2 sign(x_j) l_j / s`` with l_j in {0, ..., s}, and
    ``eta = 0, omega = min(d/s^2, sqrt(d)/s), B = 1, M = 1 + omega``: with f_j the part of
    ``a_j = s |x_j| / ||x||`` above its floor, the variance is ``||x||^2/s^2 sum f_j (1 - f_j)``,
    and ``f(1-f) <= 1`` (1/4 in fact), ``sum f_j (1-f_j) <= sum a_j <= s sqrt(d)``; unbiasedness
    turns the variance into M. After a sparsifier d is the number of values it keeps.

    Parameters
    ----------
    levels : int
        s, the number of levels above zero.

    Raises
    ------
    ValueError
        If ``levels`` is not a whole number of at least 1.

    References
    ----------
    Alistarh et al., "QSGD" (2017), lemma 3.1.

    Examples
    --------
    Whole multiples of half the norm, which is 5.

    >>> import torch
    >>> from fedstrategies import QSGD
    >>> x = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    >>> QSGD(levels=2).compress(x, keys=torch.tensor([1])).dense()
    tensor([[ 2.5000, -2.5000,  0.0000,  0.0000]])
    >>> QSGD(levels=2).constants(4).omega
    1.0
    """

    levels: int

    def __post_init__(self) -> None:
        whole = isinstance(self.levels, int) and not isinstance(self.levels, bool)
        if not whole or not 1 <= self.levels < 2**31:
            raise ValueError(
                f"levels must be a whole number from 1 to {2**31 - 1}, got {self.levels!r}"
            )

    @property
    def spec(self) -> str:
        """``qsgd:levels=8``."""
        return f"qsgd:levels={self.levels}"

    def constants(self, dimension: int) -> Constants:
        """``eta = 0, omega = min(d/s^2, sqrt(d)/s), B = 1, M = 1 + omega``."""
        omega = min(dimension / self.levels**2, sqrt(dimension) / self.levels)
        return Constants(eta=0.0, omega=omega, second_moment=1.0 + omega)

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Round every entry; a zero vector stays zero."""
        scale = _norms(vectors)
        relative = vectors.abs().to(torch.float64) / scale.to(torch.float64).unsqueeze(1)
        # A zero vector gives 0/0; a norm rounded down may put a one-hot entry above s.
        position = (relative.nan_to_num(nan=0.0) * self.levels).clamp(max=self.levels)
        below = position.floor()
        up = uniforms(keys, vectors.shape[1]) < position - below
        levels = (below + up).to(torch.int64) * vectors.sign().nan_to_num().to(torch.int64)
        return Payload(dimension=vectors.shape[1], values=Levels(scale, levels, self.levels))


def _norms(vectors: Tensor) -> Tensor:
    """Euclidean norm of each row, in the dtype of ``vectors``; the same bits for any C.

    Scaled by the largest entry, so that neither tiny nor huge vectors lose their squares.
    """
    largest = vectors.abs().amax(dim=1, keepdim=True).to(torch.float64)
    scaled = vectors.to(torch.float64) / torch.where(largest > 0, largest, 1.0)
    squares = scaled * scaled
    if squares.device.type == "cpu":
        # torch splits a long row over threads when there are few; numpy sums each row alike.
        sums = torch.from_numpy(np.add.reduce(np.ascontiguousarray(squares.numpy()), axis=1))
    else:
        sums = squares.sum(dim=1)
    return (largest[:, 0] * sums.sqrt()).to(vectors.dtype)
