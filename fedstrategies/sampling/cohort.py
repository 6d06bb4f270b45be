"""Cohorts: which clients take part in a round.

A sampling is a law of random subsets S of {0, ..., n-1}; the draw of round t is a pure function
of (seed, t), so a redone or resumed round asks the same clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedstrategies.random import Purpose, client_keys, sample_without_replacement

__all__ = ["FullParticipation", "NiceSampling", "Sampling"]


class Sampling(Protocol):
    """A law of cohorts."""

    def size(self, clients: int) -> int:
        """m, the number of clients in a cohort out of n = ``clients``."""

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """Partition ids of the cohort of a round: int64, ascending, shape (m,)."""


@dataclass(frozen=True, kw_only=True)
class FullParticipation:
    """Every client, every round."""

    def size(self, clients: int) -> int:
        """Return n."""
        return clients

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """All partition ids."""
        return torch.arange(clients)


@dataclass(frozen=True, kw_only=True)
class NiceSampling:
    """A uniformly random subset of fixed size (tau-nice sampling), p_i = tau/n.

    Attributes
    ----------
    cohort_size : int
        tau >= 1.
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
        key = client_keys(seed, round, torch.zeros(1, dtype=torch.int64), Purpose.COHORT)
        return sample_without_replacement(key, clients, self.size(clients))[0]
