"""What an aggregator is, and what all of them check and read."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["LEAST_PART", "Aggregator", "Numbers", "check_share", "numbers"]

LEAST_PART = 1e-9
"""Share of a weight or a count: what is less is a rounding error."""

Numbers: TypeAlias = npt.NDArray[np.float64]


@runtime_checkable
class Aggregator(Protocol):
    """A pure function of vectors and weights; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """The aggregator as `parse_aggregator` reads it."""

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """One vector in place of ``sum_i w_i v_i / sum_i w_i``.

        Parameters
        ----------
        rows : Tensor
            v_i, shape (m, d), m >= 1, on the CPU.
        weights : Tensor
            w_i > 0, shape (m,).

        Returns
        -------
        Tensor
            Shape (d,), dtype of ``rows``.
        """


def check_share(share: float) -> None:
    """Refuse a share of faulty clients outside [0, 1/2).

    Raises
    ------
    ValueError
        If it is.
    """
    if not 0.0 <= share < 0.5:
        raise ValueError(
            f"share = {share} is outside [0, 1/2): no mean endures half of its clients"
        )


def numbers(values: Tensor) -> Numbers:
    """A tensor on the CPU in float64, a view where it is that already."""
    found: Numbers = values.detach().to(torch.float64).numpy()
    return found
