"""How much a client may spend, and what of it is left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

from fedstrategies.privacy.accountant import Accountant
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.ledger import Ledger

__all__ = ["Budget", "BudgetSpent"]

_ENDLESS = 2**53
"""Stands for as many releases as a ledger can count."""


class BudgetSpent(RuntimeError):
    """A release would take a client above its epsilon; it has to stop training."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """(epsilon, delta)-differential privacy over everything a client ever releases.

    Attributes
    ----------
    epsilon : float
        Positive.
    delta : float
        In (0, 1).
    accountant : str
        ``rdp`` or ``prv``; see `composed_epsilon`.

    Raises
    ------
    PrivacyError
        If a value is not as above.
    """

    epsilon: float
    delta: float
    accountant: Accountant = "rdp"

    def __post_init__(self) -> None:
        if not (isfinite(self.epsilon) and self.epsilon > 0.0):
            raise PrivacyError(f"epsilon must be positive and finite, got {self.epsilon}")
        if not 0.0 < self.delta < 1.0:
            raise PrivacyError(f"delta must lie between 0 and 1, got {self.delta}")
        if self.accountant not in ("rdp", "prv"):
            raise PrivacyError(f"no accountant {self.accountant!r}; there are 'rdp' and 'prv'")

    def allows(self, ledger: Ledger) -> bool:
        """Whether a client that has spent ``ledger`` is within the budget."""
        return ledger.epsilon(self.delta, accountant=self.accountant) <= self.epsilon

    def releases_left(self, ledger: Ledger, *, noise_multiplier: float, sample_rate: float) -> int:
        """How many more releases of one mechanism the budget allows after ``ledger``.

        The largest number is found by bisection once for all that was spent otherwise, and then
        only counted down. 2**53 stands for no end.

        Raises
        ------
        PrivacyError
            As `composed_epsilon`.
        """
        spent = ledger.count(noise_multiplier=noise_multiplier, sample_rate=sample_rate)
        others = Ledger(
            tuple(
                one
                for one in ledger.segments
                if (one.noise_multiplier, one.sample_rate) != (noise_multiplier, sample_rate)
            )
        )
        return max(0, _most_releases(self, others, noise_multiplier, sample_rate) - spent)


@lru_cache(maxsize=4096)
def _most_releases(budget: Budget, others: Ledger, sigma: float, rate: float) -> int:
    """The largest number of releases of a mechanism that fits beside ``others``."""

    def fits(steps: int) -> bool:
        return budget.allows(others.charge(noise_multiplier=sigma, sample_rate=rate, steps=steps))

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < _ENDLESS and fits(high):
        low, high = high, 2 * high
    while high < _ENDLESS and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if high < _ENDLESS else _ENDLESS
