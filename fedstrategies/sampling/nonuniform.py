"""One client at a time, each with a probability of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedstrategies.random import uniforms
from fedstrategies.sampling.base import (
    checked_probabilities,
    cohort_key,
    one_for_each,
    squared_norms,
)

__all__ = ["NonuniformSampling", "pick", "proportional"]

_SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, kw_only=True)
class NonuniformSampling:
    """A single client, i with probability p_i.

    Attributes
    ----------
    probabilities : tuple of float
        p_i > 0, one per client, with sum 1.

    Raises
    ------
    ValueError
        If a probability is not positive or their sum is not 1.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import NonuniformSampling
    >>> law = NonuniformSampling(probabilities=(0.1, 0.2, 0.3, 0.4))
    >>> law.draw(4, seed=0, round=1)
    tensor([3])
    >>> law.inclusion_probabilities(4)
    tensor([0.1000, 0.2000, 0.3000, 0.4000], dtype=torch.float64)
    >>> law.strong_convexity(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    2.5
    """

    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        checked = checked_probabilities("nonuniform", self.probabilities)
        object.__setattr__(self, "probabilities", checked)

    @classmethod
    def uniform(cls, clients: int) -> NonuniformSampling:
        """p_i = 1/n."""
        return cls(probabilities=(1 / clients,) * clients)

    @classmethod
    def for_strong_convexity(cls, mu_i: Tensor) -> NonuniformSampling:
        """``p_i = mu_i/sum_j mu_j``, which makes mu_AS largest; mu_i of shape (n,)."""
        return cls(probabilities=proportional(mu_i.to(torch.float64)))

    @classmethod
    def for_variance(cls, gradients: Tensor) -> NonuniformSampling:
        """``p_i`` in proportion to ``||grad f_i(x*)||``, which makes the variance smallest.

        Gradients of shape (n, d). Where one is (almost) zero, its client still gets a millionth
        of the mean probability, since every client needs a chance.
        """
        return cls(probabilities=proportional(squared_norms(gradients).sqrt()))

    @cached_property
    def _cumulative(self) -> Tensor:
        return torch.tensor(self.probabilities, dtype=torch.float64).cumsum(0)

    def size(self, clients: int) -> int:
        """One.

        Raises
        ------
        ValueError
            If there are not as many probabilities as clients.
        """
        one_for_each("nonuniform", len(self.probabilities), clients)
        return 1

    def draw(self, clients: int, *, seed: int, round: int) -> Tensor:
        """The partition id of a round's client, shape (1,)."""
        self.size(clients)
        return torch.tensor([pick(self._cumulative, cohort_key(seed, round))])

    def inclusion_probabilities(self, clients: int) -> Tensor:
        """The probabilities, shape (n,)."""
        self.size(clients)
        return torch.tensor(self.probabilities, dtype=torch.float64)

    def outcomes(self, clients: int) -> Iterator[tuple[float, Tensor]]:
        """Each client alone."""
        self.size(clients)
        for client, probability in enumerate(self.probabilities):
            yield probability, torch.tensor([client])

    def strong_convexity(self, mu_i: Tensor) -> float:
        """``min_i mu_i/(n p_i)``."""
        clients = len(mu_i)
        return float(
            (mu_i.to(torch.float64) / (clients * self.inclusion_probabilities(clients))).min()
        )

    def variance(self, gradients: Tensor) -> float:
        """``sum_i p_i ||grad f_i/(n p_i) - grad f||^2``."""
        rows = gradients.to(torch.float64)
        probabilities = self.inclusion_probabilities(len(rows))
        scaled = rows / (len(rows) * probabilities).unsqueeze(1)
        return float((probabilities * squared_norms(scaled - rows.mean(dim=0))).sum())


def pick(cumulative: Tensor, key: Tensor) -> int:
    """An index by cumulative probabilities (m,), from a stream (1,); O(log m) work."""
    # The last cumulative sum may fall short of a draw by rounding.
    found = int(torch.searchsorted(cumulative, uniforms(key, 1)[0], right=True))
    return min(found, len(cumulative) - 1)


def proportional(sizes: Tensor) -> tuple[float, ...]:
    """Probabilities in proportion to ``sizes`` (m,), none below a millionth of the mean.

    Raises
    ------
    ValueError
        If a size is negative or not finite, or all are zero.
    """
    if not bool(torch.isfinite(sizes).all()) or bool((sizes < 0).any()) or not bool(sizes.any()):
        raise ValueError("probabilities need finite sizes >= 0 that are not all zero")
    floored = sizes.clamp(min=float(sizes.mean()) * _SMALLEST_SHARE)
    shares: Sequence[float] = (floored / floored.sum()).tolist()
    return tuple(shares)
