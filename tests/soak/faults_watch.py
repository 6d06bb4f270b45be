"""Measures invariants at every attempt at a round.

A violation is a number that should be 0, or no larger than the invariant's limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from fedstrategies.flower import BaseStrategy, Delivery
from fedstrategies.flower.attempt import Attempt

Afterwards = Callable[[], float]

_EXPECTED = (
    "(late)",
    "another run",
    "duplicate",
    "no reply",
    "not connected",
    "malformed",
    "lost",
    "stale",
    "client raised",
    "another memory",
)


class Broken(AssertionError):
    """An invariant does not hold."""


class Invariant(Protocol):
    """Something that faults leave alone."""

    name: str
    limit: float

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """Look at what is there before the commit; the result measures the violation after it."""


class Watch:
    """Measures invariants at every attempt of the strategies it is attached to.

    Attributes
    ----------
    worst : dict of str to float
        The largest violation of each so far.
    attempts : int
        How many were looked at.
    """

    def __init__(self, invariants: Iterable[Invariant]) -> None:
        self.invariants = tuple(invariants)
        self.worst = {one.name: 0.0 for one in self.invariants}
        self.attempts = 0

    def attach(self, strategy: BaseStrategy, follow: Callable[[], None] = lambda: None) -> None:
        """Look at every commit of a strategy; ``follow`` is called after it.

        Raises
        ------
        Broken
            At a commit after which an invariant does not hold, or a failure has no known cause.
        """
        commit = strategy.commit

        def watched(attempt: Attempt, deliveries: Sequence[Delivery]) -> bool:
            pending = [one.before(strategy, attempt, deliveries) for one in self.invariants]
            done = commit(attempt, deliveries)
            self.attempts += 1
            for line in strategy.failures:
                if not any(cause in line for cause in _EXPECTED):
                    raise Broken(f"round {attempt.round}: a failure of no known kind: {line}")
            for one, after in zip(self.invariants, pending, strict=True):
                found = after()
                self.worst[one.name] = max(self.worst[one.name], found)
                if not found <= one.limit:
                    raise Broken(f"round {attempt.round}: {one.name}: {found:.3g}")
            follow()
            return done

        strategy.commit = watched  # type: ignore[method-assign]

    def detach(self, strategy: BaseStrategy) -> None:
        """Look no further."""
        del strategy.commit
