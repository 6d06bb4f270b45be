"""Whole groups of clients: one group a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedstrategies.sampling.base import (
    checked_groups,
    checked_probabilities,
    cohort_key,
    one_for_each,
    squared_norms,
)
from fedstrategies.sampling.nonuniform import pick, proportional

__all__ = ["BlockSampling"]


@dataclass(frozen=True, kw_only=True)
class BlockSampling:
    """A whole block of clients, block j with probability q_j: p_i = q_{j(i)}.

    Attributes
    ----------
    blocks : tuple of tuple of int
        A partition of 0, ..., n-1.
    probabilities : tuple of float or None
        q_j > 0 with sum 1; None: all alike.

    Raises
    ------
    ValueError
        If the blocks are not a partition, or the probabilities do not fit.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import BlockSampling
    >>> law = BlockSampling(blocks=((0, 1), (2, 3)), probabilities=(0.25, 0.75))
    >>> law.draw(4, seed=0, round=1)
    tensor([2, 3])
    >>> law.inclusion_probabilities(4)
    tensor([0.2500, 0.2500, 0.7500, 0.7500], dtype=torch.float64)
    >>> law.strong_convexity(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    2.3333333333333335
    """

    blocks: tuple[tuple[int, ...], ...]
    probabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_groups("block", self.blocks))
        count = len(self.blocks)
        given = (1 / count,) * count if self.probabilities is None else self.probabilities
        if len(given) != count:
            raise ValueError(f"block sampling: {len(given)} probabilities for {count} blocks")
        object.__setattr__(self, "probabilities", checked_probabilities("block", given))

    @classmethod
    def for_strong_convexity(cls, blocks: Sequence[Sequence[int]], mu_i: Tensor) -> BlockSampling:
        """``q_j`` in proportion to ``sum_{i in C_j} mu_i``, which makes mu_AS largest."""
        groups = checked_groups("block", blocks)
        sums = _sums(groups, mu_i.unsqueeze(1)).squeeze(1)
        return cls(blocks=groups, probabilities=proportional(sums))

    @classmethod
    def for_variance(cls, blocks: Sequence[Sequence[int]], gradients: Tensor) -> BlockSampling:
        """``q_j`` in proportion to ``||sum_{i in C_j} grad f_i(x*)||``: smallest variance.

        Gradients of shape (n, d); a block whose sum is almost zero still gets a millionth of the
        mean probability.
        """
        groups = checked_groups("block", blocks)
        norms = squared_norms(_sums(groups, gradients)).sqrt()
        return cls(blocks=groups, probabilities=proportional(norms))

    @cached_property
    def _law(self) -> Tensor:
        return torch.tensor(self.probabilities, dtype=torch.float64)

    @cached_property
    def _cumulative(self) -> Tensor:
        return self._law.cumsum(0)

    @cached_property
    def _clients(self) -> int:
        return sum(map(len, self.blocks))

    @cached_property
    def _largest(self) -> int:
        return max(map(len, self.blocks))

    def size(self, clients: int) -> int:
        """Clients in the largest block.

        Raises
        ------
        ValueError
            If the blocks are not of n clients.
        """
        one_for_each("block", self._clients, clients)
        return self._largest

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """Partition ids of the round's block."""
        one_for_each("block", self._clients, clients)
        return torch.tensor(self.blocks[pick(self._cumulative, cohort_key(seed, round))])

    def inclusion_probabilities(self, clients: int) -> Tensor:
        """q of each client's block, shape (n,)."""
        one_for_each("block", self._clients, clients)
        found = torch.empty(clients, dtype=torch.float64)
        for block, probability in zip(self.blocks, self._law, strict=True):
            found[list(block)] = probability
        return found

    def outcomes(self, clients: int) -> Iterator[tuple[float, Tensor]]:
        """Each block."""
        one_for_each("block", self._clients, clients)
        for block, probability in zip(self.blocks, self._law.tolist(), strict=True):
            yield probability, torch.tensor(block)

    def strong_convexity(self, mu_i: Tensor) -> float:
        """``min_j sum_{i in C_j} mu_i/(n q_j)``."""
        sums = _sums(self.blocks, mu_i.unsqueeze(1)).squeeze(1)
        return float((sums / (len(mu_i) * self._law)).min())

    def variance(self, gradients: Tensor) -> float:
        """``sum_j q_j ||(1/(n q_j)) sum_{i in C_j} grad f_i - grad f||^2``."""
        rows = gradients.to(torch.float64)
        scaled = _sums(self.blocks, rows) / (len(rows) * self._law).unsqueeze(1)
        return float((self._law * squared_norms(scaled - rows.mean(dim=0))).sum())


def _sums(blocks: tuple[tuple[int, ...], ...], rows: Tensor) -> Tensor:
    """Sum over each block, in float64: (n, d) -> (b, d)."""
    one_for_each("block", sum(map(len, blocks)), len(rows))
    exact = rows.to(torch.float64)
    return torch.stack([exact[list(block)].sum(dim=0) for block in blocks])
