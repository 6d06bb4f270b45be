"""Cohorts of fixed size in which all clients are alike: full participation and nice sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from fedstrategies.random import sample_without_replacement
from fedstrategies.sampling.base import cohort_key, squared_norms

__all__ = ["FullParticipation", "NiceSampling"]


@dataclass(frozen=True, kw_only=True)
class FullParticipation:
    """Every client, every round: p_i = 1.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import FullParticipation
    >>> law = FullParticipation()
    >>> law.draw(4, seed=0, round=1)
    tensor([0, 1, 2, 3])
    >>> law.inclusion_probabilities(4)
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    >>> law.strong_convexity(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    2.5
    """

    def size(self, clients: int) -> int:
        """Return n."""
        return clients

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """All partition ids."""
        return torch.arange(clients)

    def inclusion_probabilities(self, clients: int) -> Tensor:
        """Ones, shape (n,)."""
        return torch.ones(clients, dtype=torch.float64)

    def outcomes(self, clients: int) -> Iterator[tuple[float, Tensor]]:
        """The one cohort."""
        yield 1.0, torch.arange(clients)

    def strong_convexity(self, mu_i: Tensor) -> float:
        """``(1/n) sum_i mu_i``."""
        return float(mu_i.to(torch.float64).mean())

    def variance(self, gradients: Tensor) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class NiceSampling:
    """A uniformly random subset of fixed size (tau-nice sampling), p_i = tau/n.

    Attributes
    ----------
    cohort_size : int
        tau >= 1.

    Raises
    ------
    ValueError
        If ``cohort_size`` is below 1; when n is known, if it exceeds n.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import NiceSampling
    >>> law = NiceSampling(cohort_size=2)
    >>> law.draw(4, seed=0, round=1)
    tensor([2, 3])
    >>> law.inclusion_probabilities(4)
    tensor([0.5000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    >>> law.strong_convexity(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    1.5
    """

    cohort_size: int

    def __post_init__(self) -> None:
        if self.cohort_size < 1:
            raise ValueError(f"cohort size {self.cohort_size}: at least 1 client must take part")

    def size(self, clients: int) -> int:
        """Return tau.

        Raises
        ------
        ValueError
            If tau > n.
        """
        if self.cohort_size > clients:
            raise ValueError(f"cohort size {self.cohort_size} exceeds the {clients} clients")
        return self.cohort_size

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """Partition ids of the cohort of a round."""
        return sample_without_replacement(cohort_key(seed, round), clients, self.size(clients))[0]

    def inclusion_probabilities(self, clients: int) -> Tensor:
        """tau/n each, shape (n,)."""
        return torch.full((clients,), self.size(clients) / clients, dtype=torch.float64)

    def outcomes(self, clients: int) -> Iterator[tuple[float, Tensor]]:
        """All n-choose-tau subsets."""
        size = self.size(clients)
        probability = 1 / comb(clients, size)
        for members in combinations(range(clients), size):
            yield probability, torch.tensor(members)

    def strong_convexity(self, mu_i: Tensor) -> float:
        """The mean of the tau smallest mu_i."""
        ordered = mu_i.to(torch.float64).sort().values
        return float(ordered[: self.size(len(mu_i))].mean())

    def variance(self, gradients: Tensor) -> float:
        """``(n - tau)/(tau (n - 1)) (1/n) sum_i ||grad f_i - grad f||^2``."""
        clients = len(gradients)
        size = self.size(clients)
        if size == clients:
            return 0.0
        rows = gradients.to(torch.float64)
        spread = squared_norms(rows - rows.mean(dim=0)).mean()
        return float(spread) * (clients - size) / (size * (clients - 1))
