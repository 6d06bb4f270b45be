"""One client of each stratum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor

from fedstrategies.random import uniforms
from fedstrategies.sampling.base import (
    checked_groups,
    cohort_key,
    one_for_each,
    squared_norms,
)

__all__ = ["StratifiedSampling"]


@dataclass(frozen=True, kw_only=True)
class StratifiedSampling:
    """One uniformly random client of every stratum, independently: p_i = 1/|C_{j(i)}|.

    Strata may be uneven; in f_C a client of stratum j then has the weight |C_j|/n. Clients that
    resemble each other belong in one stratum: only differences inside strata count for the
    variance. Over all partitions into equal strata its mean is that of nice sampling with as
    many clients, so the best partition is never worse than nice sampling.

    Attributes
    ----------
    strata : tuple of tuple of int
        A partition of 0, ..., n-1.

    Raises
    ------
    ValueError
        If the strata are not a partition.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import StratifiedSampling
    >>> law = StratifiedSampling(strata=((0, 1, 2), (3,)))
    >>> law.draw(4, seed=0, round=1)
    tensor([2, 3])
    >>> law.inclusion_probabilities(4)
    tensor([0.3333, 0.3333, 0.3333, 1.0000], dtype=torch.float64)
    >>> law.strong_convexity(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    1.75
    """

    strata: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "strata", checked_groups("stratified", self.strata))

    @cached_property
    def _sizes(self) -> Tensor:
        return torch.tensor([len(stratum) for stratum in self.strata])

    @cached_property
    def _members(self) -> Tensor:
        """All clients, stratum after stratum."""
        return torch.tensor([client for stratum in self.strata for client in stratum])

    @cached_property
    def _starts(self) -> Tensor:
        return self._sizes.cumsum(0) - self._sizes

    def size(self, clients: int) -> int:
        """The number of strata.

        Raises
        ------
        ValueError
            If the strata are not of n clients.
        """
        one_for_each("stratified", len(self._members), clients)
        return len(self.strata)

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """Partition ids of the cohort of a round."""
        count = self.size(clients)
        chosen = (uniforms(cohort_key(seed, round), count)[0] * self._sizes).to(torch.int64)
        return self._members[self._starts + chosen].sort().values

    def inclusion_probabilities(self, clients: int) -> Tensor:
        """1/|C_j|, shape (n,)."""
        self.size(clients)
        found = torch.empty(clients, dtype=torch.float64)
        found[self._members] = (1 / self._sizes.to(torch.float64)).repeat_interleave(self._sizes)
        return found

    def outcomes(self, clients: int) -> Iterator[tuple[float, Tensor]]:
        """All prod_j |C_j| choices."""
        self.size(clients)
        probability = 1 / prod(self._sizes.tolist())
        for members in product(*self.strata):
            yield probability, torch.tensor(sorted(members))

    def strong_convexity(self, mu_i: Tensor) -> float:
        """``(1/n) sum_j |C_j| min_{i in C_j} mu_i``."""
        self.size(len(mu_i))
        smallest = [float(mu_i[list(stratum)].min()) for stratum in self.strata]
        smallest_of = torch.tensor(smallest, dtype=torch.float64)
        return float((self._sizes * smallest_of).sum()) / len(mu_i)

    def variance(self, gradients: Tensor) -> float:
        """``(1/n^2) sum_j |C_j|^2 Var_j``: Var_j is the variance inside C_j."""
        self.size(len(gradients))
        rows = gradients.to(torch.float64)
        inside = [rows[list(stratum)] for stratum in self.strata]
        spread = [len(r) ** 2 * squared_norms(r - r.mean(dim=0)).mean() for r in inside]
        return float(torch.stack(spread).sum()) / len(rows) ** 2
