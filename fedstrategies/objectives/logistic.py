"""l2-regularised binary logistic regression: one client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.layout import Layout
from fedstrategies.objectives.base import BatchedObjective, Objective
from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression

__all__ = ["LogisticRegression"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LogisticRegression(Objective):
    """One client's ``f_i(x) = (1/m) sum_j log(1 + exp(-y_j <a_j, x>)) + (l2/2) ||x||^2``.

    Parameters
    ----------
    features : Tensor
        a, shape (m, d), float64 (float32 is possible); not copied.
    labels : Tensor
        y, shape (m,): -1 or +1 (`fedstrategies.data.binary_labels`).
    l2 : float
        lambda >= 0.
    batch_size : int, optional
        B: with a key, the mean runs over B rows drawn without replacement (all of them if
        m <= B). None: full gradients always.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there is no row.

    Examples
    --------
    Two clients with two rows each, and the gradient of the first one at zero.

    >>> import torch
    >>> from fedstrategies import LogisticRegression
    >>> a = torch.diag(torch.tensor([2.0, 1.0, 1.0, 3.0], dtype=torch.float64))
    >>> y, shards = torch.tensor([1.0, -1.0, 1.0, 1.0]), (slice(0, 2), slice(2, 4))
    >>> f = [LogisticRegression(features=a[s], labels=y[s], l2=0.1) for s in shards]
    >>> value, gradient = f[0].value_and_gradient(torch.zeros(4, dtype=torch.float64))
    >>> gradient
    tensor([-0.5000,  0.2500,  0.0000,  0.0000], dtype=torch.float64)
    """

    features: Tensor
    labels: Tensor
    l2: float = 0.0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise ValueError(
                f"features of shape (m, d) and labels (m,) are needed, got "
                f"{tuple(self.features.shape)} and {tuple(self.labels.shape)}"
            )
        if 0 in self.features.shape:
            raise ValueError(f"a client needs data, got shape {tuple(self.features.shape)}")
        if self.features.dtype not in (torch.float64, torch.float32):
            raise ValueError(
                f"features must be float64 or float32, got {self.features.dtype}; "
                "cast them with .double()"
            )
        if not bool((self.labels.abs() == 1).all()):
            raise ValueError("labels must be -1 or +1; map them with data.binary_labels")
        if not 0.0 <= self.l2 < float("inf"):
            raise ValueError(f"l2 must be a finite number >= 0, got {self.l2}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def layout(self) -> Layout:
        """One entry, ``weight`` of shape (d,)."""
        shape = (self.features.shape[1],)
        return Layout(names=("weight",), shapes=(shape,), dtype=self.features.dtype)

    @property
    def num_examples(self) -> int:
        """m, the number of rows."""
        return len(self.features)

    @property
    def stochastic(self) -> bool:
        """Whether a batch size is set."""
        return self.batch_size is not None

    @property
    def concurrent(self) -> bool:
        """True."""
        return True

    def initial_arrays(self) -> dict[str, Tensor]:
        """The origin, as ``weight``."""
        return {"weight": self.features.new_zeros(self.features.shape[1])}

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient; see `Objective.value_and_gradient`."""
        values, gradients = self.as_batch.value_and_gradient(x, keys=key)
        return values[0], gradients[0]

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient on some rows; see `Objective.at_rows`."""
        part = LogisticRegression(
            features=self.features[rows], labels=self.labels[rows], l2=self.l2
        )
        return part.value_and_gradient(x)

    def value(self, x: Tensor) -> Tensor:
        """f_i(x): shape ()."""
        return self.as_batch.values(x)[0]

    def accuracy(self, x: Tensor) -> Tensor:
        """Fraction of rows whose label is the sign of <a, x> (0 counts as -1): shape ()."""
        return self.as_batch.accuracy(x)[0]

    @classmethod
    def stack(cls, objectives: Sequence[Objective]) -> BatchedObjective:
        """All clients in one batched objective.

        Raises
        ------
        ValueError
            As `BatchedLogisticRegression`.
        """
        logistic = [one for one in objectives if isinstance(one, LogisticRegression)]
        if len(logistic) < len(objectives):
            raise ValueError("logistic regression cannot be stacked with other objectives")
        return BatchedLogisticRegression(logistic)
