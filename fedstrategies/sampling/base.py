"""What a law of cohorts is.

A sampling is a law of random subsets C of {0, ..., n-1} in which every client has a chance,
``p_i = P(i in C) > 0``. The draw of round t is a pure function of (seed, t), so a redone or
resumed round asks the same clients. With ``f_C = sum_{i in C} f_i/(n p_i)`` every law gives
``E f_C = f = (1/n) sum_i f_i``; what tells laws apart are two constants of f_C (see the methods).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import fsum
from typing import Protocol

import torch
from torch import Tensor

from fedstrategies.random import Purpose, client_keys

__all__ = [
    "Sampling",
    "checked_groups",
    "checked_probabilities",
    "cohort_key",
    "one_for_each",
    "squared_norms",
]

_TOLERANCE = 1e-9


class Sampling(Protocol):
    """A law of cohorts; implementations are frozen dataclasses."""

    def size(self, clients: int) -> int:
        """Clients in the largest cohort out of n = ``clients``.

        Raises
        ------
        ValueError
            If the law is not one of subsets of n clients.
        """

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """Partition ids of the cohort of a round: int64, ascending."""

    def inclusion_probabilities(self, clients: int) -> Tensor:
        """``p_i = P(i in C)``: float64, shape (n,)."""

    def outcomes(self, clients: int) -> Iterator[tuple[float, Tensor]]:
        """Every cohort of positive probability once, with its probability.

        Their number can be exponential in n: for small n.
        """

    def strong_convexity(self, mu_i: Tensor) -> float:
        """``mu_AS = min_C sum_{i in C} mu_i/(n p_i)`` from mu_i of shape (n,)."""

    def variance(self, gradients: Tensor) -> float:
        """``sum_C P(C) ||grad f_C - grad f||^2`` from grad f_i, shape (n, d).

        At the minimiser of f it is ``sigma^2_{*,AS}``, the variance that bounds how close
        SPPM-AS comes.
        """


def cohort_key(seed: int, round: int) -> Tensor:
    """The round's stream for cohorts: int64, shape (1,)."""
    return client_keys(seed, round, torch.zeros(1, dtype=torch.int64), Purpose.COHORT)


def squared_norms(rows: Tensor) -> Tensor:
    """``||row||^2`` in float64: (m, d) -> (m,)."""
    return rows.to(torch.float64).square().sum(dim=1)


def one_for_each(name: str, found: int, clients: int) -> None:
    """Refuse a law for another number of clients than n."""
    if found != clients:
        raise ValueError(f"{name} sampling is for {found} clients, there are {clients}")


def checked_probabilities(name: str, probabilities: Sequence[float]) -> tuple[float, ...]:
    """Probabilities as they should be: positive, with sum 1.

    Raises
    ------
    ValueError
        If one is not positive, or the sum is not 1 within 1e-9.
    """
    for index, probability in enumerate(probabilities):
        if not 0.0 < probability <= 1.0:
            raise ValueError(
                f"{name} sampling: probability {probability} of {index} is outside (0, 1]; every "
                "client needs a chance"
            )
    total = fsum(probabilities)
    if abs(total - 1.0) > _TOLERANCE:
        raise ValueError(f"{name} sampling: the probabilities sum to {total:.12g}, not to 1")
    return tuple(map(float, probabilities))


def checked_groups(name: str, groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Groups of clients, each in ascending order.

    Raises
    ------
    ValueError
        If they are not a partition of 0, ..., n-1, or one is empty.
    """
    if not groups or not all(groups):
        raise ValueError(f"{name} sampling: every group needs a client, and there must be a group")
    members = sorted(client for group in groups for client in group)
    if members != list(range(len(members))):
        twice = {a for a, b in itertools.pairwise(members) if a == b}
        what = f"client {min(twice)} is in two" if twice else "a client is missing"
        raise ValueError(
            f"{name} sampling: the groups must hold each of the clients 0, ..., n-1 once; {what}"
        )
    return tuple(tuple(sorted(map(int, group))) for group in groups)
