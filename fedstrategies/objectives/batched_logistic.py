"""l2-regularised binary logistic regression in closed form: many clients in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.objectives.base import BatchedObjective
from fedstrategies.objectives.logistic_kernels import (
    Block,
    block_correct,
    block_values,
    block_values_and_gradients,
)
from fedstrategies.objectives.shards import Shards
from fedstrategies.random import sample_without_replacement

if TYPE_CHECKING:
    from fedstrategies.objectives.logistic import LogisticRegression

__all__ = ["BatchedLogisticRegression"]


class BatchedLogisticRegression(BatchedObjective):
    """The f_i of n clients with shards of any sizes.

    On CPU, with a fixed number of BLAS threads (`fedstrategies.threads`), a client's value and
    gradient have the same bits alone, in any batch and in any subset. On other devices they
    agree to rounding.

    Parameters
    ----------
    objectives : sequence of LogisticRegression
        One per client; their rows are copied.

    Raises
    ------
    ValueError
        If there is none, or they differ in dimension, dtype, device or batch size.
    """

    def __init__(self, objectives: Sequence[LogisticRegression]) -> None:
        kinds = {
            (one.dimension, one.dtype, one.features.device, one.batch_size) for one in objectives
        }
        if len(kinds) != 1:
            found = "; ".join(", ".join(map(str, kind)) for kind in sorted(kinds, key=str))
            raise ValueError(
                "clients must share dimension, dtype, device and batch size, got "
                f"{found or 'no client'}"
            )
        self.shards = Shards([one.features for one in objectives], [o.labels for o in objectives])
        self.batch_size = objectives[0].batch_size
        l2 = [one.l2 for one in objectives]
        self.l2 = torch.tensor(l2, dtype=self.shards.dtype, device=self.shards.device)
        # One number for all multiplies (d,) instead of (C, d); the products are the same.
        self._common_l2 = l2[0] if len(set(l2)) == 1 else None

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def dimension(self) -> int:
        """d, the number of features."""
        return self.shards.dimension

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x, values and gradients."""
        return self.shards.dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are, and x must be."""
        return self.shards.device

    @property
    def num_examples(self) -> Tensor:
        """m_i of each client: int64, shape (n,)."""
        return self.shards.sizes

    @property
    def stochastic(self) -> bool:
        """Whether a batch size is set."""
        return self.batch_size is not None

    @property
    def concurrent(self) -> bool:
        """True."""
        return True

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (C',) and gradients (C', d); see `BatchedObjective.value_and_gradient`.

        Raises
        ------
        ValueError
            If ``x`` has another shape or dtype.
        """
        count = self._check(x, clients)
        values = x.new_empty(count)
        gradients = x.new_empty((count, self.dimension))
        for places, block in self._blocks(clients, keys):
            own = x if x.ndim == 1 else x[places]
            if isinstance(places, slice):
                values[places] = block_values_and_gradients(block, own, gradients[places])
            else:
                part = gradients.new_empty((len(block), self.dimension))
                values[places] = block_values_and_gradients(block, own, part)
                gradients[places] = part
        values += self._regulariser(x, clients)
        gradients += self._l2_times(x, clients)
        return values, gradients

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """f_i(x) of the selected clients: shape (C',)."""
        values = x.new_empty(self._check(x, clients))
        for places, block in self.shards.blocks(clients):
            values[places] = block_values(block, x if x.ndim == 1 else x[places])
        return values + self._regulariser(x, clients)

    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """Fraction of each selected client's rows classified correctly: shape (C',)."""
        accuracy = x.new_empty(self._check(x, clients))
        for places, block in self.shards.blocks(clients):
            correct = block_correct(block, x if x.ndim == 1 else x[places])
            accuracy[places] = correct / block.sizes.squeeze(1)
        return accuracy

    def _blocks(
        self, clients: Tensor | None, keys: Tensor | None
    ) -> Iterator[tuple[Tensor | slice, Block]]:
        if keys is None or self.batch_size is None:
            yield from self.shards.blocks(clients)
            return
        chosen = torch.arange(len(self)) if clients is None else clients
        sizes = self.shards.sizes[chosen]
        whole = (sizes <= self.batch_size).nonzero().squeeze(1)
        for places, block in self.shards.blocks(chosen[whole]):
            yield whole[places], block
        for size in sorted(set(sizes[sizes > self.batch_size].tolist())):
            where = (sizes == size).nonzero().squeeze(1)
            draws = sample_without_replacement(keys[where], size, self.batch_size)
            for chunk, block in self.shards.drawn(chosen[where], draws):
                yield where[chunk], block

    def _regulariser(self, x: Tensor, clients: Tensor | None) -> Tensor | float:
        if self._common_l2 == 0.0:
            # ||x||^2 may overflow where f_i does not, and 0 * inf is not a number.
            return 0.0
        return 0.5 * self._weights(clients) * (x * x).sum(dim=-1)

    def _l2_times(self, x: Tensor, clients: Tensor | None) -> Tensor:
        weights = self._weights(clients)
        return weights * x if isinstance(weights, float) else weights.unsqueeze(1) * x

    def _weights(self, clients: Tensor | None) -> float | Tensor:
        if self._common_l2 is not None:
            return self._common_l2
        return self.l2 if clients is None else self.l2[clients]

    def _check(self, x: Tensor, clients: Tensor | None) -> int:
        """C', after making sure that ``x`` fits."""
        count = len(self) if clients is None else len(clients)
        if x.shape not in ((self.dimension,), (count, self.dimension)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected ({self.dimension},) or "
                f"({count}, {self.dimension})"
            )
        if x.dtype != self.shards.dtype:
            raise ValueError(f"x is {x.dtype}, the data are {self.shards.dtype}; cast one of them")
        return count
