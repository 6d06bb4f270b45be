"""The contract of an objective: one client's f_i, and the f_i of many clients at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from fedstrategies.layout import Layout
from fedstrategies.objectives.statistic import ExampleStatistic

__all__ = ["BatchedObjective", "Objective"]


class Objective(ABC):
    """One client's f_i: R^d -> R, with its data inside."""

    device: torch.device = torch.device("cpu")
    """Where it computes; x may be elsewhere, and results are where x is."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Names and shapes of the entries of the flat vector x."""

    @property
    @abstractmethod
    def num_examples(self) -> int:
        """m_i, the number of examples of this client."""

    @property
    def dimension(self) -> int:
        """d, the length of the flat vector."""
        return self.layout.dimension

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x, values and gradients."""
        return self.layout.dtype

    @property
    def stochastic(self) -> bool:
        """Whether a key makes `value_and_gradient` use a mini-batch."""
        return False

    @property
    def concurrent(self) -> bool:
        """Whether it may be evaluated beside other clients', each in a Python thread of its own.

        True promises the same bits; it is no if torch's global generators are drawn from, as by
        dropout, or if something that is shared would be written to.
        """
        return False

    @abstractmethod
    def initial_arrays(self) -> dict[str, Tensor]:
        """A start point x^0 as named arrays in the order of `layout`; copies."""

    @abstractmethod
    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient, or an unbiased estimate of both.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        key : Tensor, optional
            int64, shape (1,): the random stream of the mini-batch. None: all examples.

        Returns
        -------
        tuple of Tensor
            Shapes () and (d,).
        """

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient of f_i on some of its examples, regulariser included.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        rows : Tensor
            int64 row numbers of this client's examples, shape (B,).

        Returns
        -------
        tuple of Tensor
            Shapes () and (d,).

        Raises
        ------
        NotImplementedError
            If the objective cannot pick examples.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no at_rows, which training in shuffled passes needs"
        )

    def mean_statistic(self, x: Tensor, statistic: ExampleStatistic) -> Tensor:
        """The mean of a statistic over this client's examples.

        Parameters
        ----------
        x : Tensor
            The model that the examples pass through, shape (d,).
        statistic : ExampleStatistic
            What is asked of each.

        Returns
        -------
        Tensor
            float64, shape (S,).

        Raises
        ------
        NotImplementedError
            If no module stands behind the objective.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no layers whose activations could be looked at; a "
            "TorchObjective has"
        )

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """f_i(x) over all examples: shape ()."""

    @abstractmethod
    def accuracy(self, x: Tensor) -> Tensor:
        """Fraction of examples classified correctly: shape (), NaN where it means nothing."""

    @cached_property
    def as_batch(self) -> BatchedObjective:
        """The objective as a batch of one client; built once."""
        return type(self).stack([self])

    @classmethod
    def stack(cls, objectives: Sequence[Objective]) -> BatchedObjective:
        """The objectives of several clients as one; a class with batched kernels overrides it.

        Raises
        ------
        ValueError
            If there is none, or they differ in dimension or dtype.
        """
        from fedstrategies.objectives.looped import LoopedObjectives

        return LoopedObjectives(objectives)


class BatchedObjective(ABC):
    """The f_i of n clients, evaluated in one call.

    Rows are clients. ``clients`` selects rows by their position (int64, ascending) and C' is
    their number; without it C' = n. Results may be shared with later calls: callers must not
    write into them.
    """

    def remembering(self) -> BatchedObjective:
        """The same, giving the stored result when asked again at the same point."""
        from fedstrategies.objectives.last_point import LastPoint

        return LastPoint(self)

    @abstractmethod
    def __len__(self) -> int:
        """n, the number of clients."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """d, the length of the flat vector."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of x, values and gradients."""

    @property
    @abstractmethod
    def num_examples(self) -> Tensor:
        """Number of examples of each client: int64, shape (n,)."""

    @property
    def device(self) -> torch.device:
        """Where it computes (default: CPU); x may be elsewhere, and results are where x is."""
        return torch.device("cpu")

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether keys make `value_and_gradient` use mini-batches."""

    @property
    def looped(self) -> bool:
        """Whether clients are evaluated one after the other, and not by one batched kernel.

        If so, to take all local steps of one client while its model is in the cache is faster
        than one step of all clients at a time. The bits are the same.
        """
        return False

    @property
    def concurrent(self) -> bool:
        """Whether disjoint sets of rows may be evaluated in several Python threads at once.

        True promises the same bits as one call after the other.
        """
        return False

    @abstractmethod
    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values and gradients of the selected f_i.

        Parameters
        ----------
        x : Tensor
            Shape (d,), one point for all, or (C', d), one for each.
        clients : Tensor, optional
            int64, shape (C',): rows, ascending. None: all.
        keys : Tensor, optional
            int64, shape (C',): the random stream of each selected client's mini-batch; no
            effect unless `stochastic`. None: full gradients.

        Returns
        -------
        tuple of Tensor
            Shapes (C',) and (C', d). Not to be written into.
        """

    def mean_statistics(
        self, x: Tensor, statistic: ExampleStatistic, *, clients: Tensor | None = None
    ) -> Tensor:
        """`Objective.mean_statistic` of the selected clients at one x (d,): float64, (C', S).

        Raises
        ------
        NotImplementedError
            As there.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no layers whose activations could be looked at"
        )

    @abstractmethod
    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """f_i(x) of the selected clients over all their examples: shape (C',)."""

    @abstractmethod
    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """Fraction of each selected client's examples classified correctly: shape (C',)."""
