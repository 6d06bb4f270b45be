"""A node's side of its account: where its releases are charged, and what lasts of them."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Protocol

from flwr.app import ConfigRecord, RecordDict

from fedstrategies.flower.account import Account
from fedstrategies.objectives import BatchedObjective, Objective, PersonalObjective
from fedstrategies.objectives.wrapped import WrappedObjectives
from fedstrategies.privacy import (
    Budget,
    BudgetSpent,
    GaussianMechanism,
    PrivateObjective,
    PrivateObjectives,
    Secret,
)
from fedstrategies.privacy import Ledger as PrivacyLedger

__all__ = [
    "Payer",
    "charge_unheard",
    "knows",
    "load_spending",
    "payer_of",
    "payers_of",
    "recall",
    "save_spending",
    "say_that_noise_is_simulated",
]

logger = logging.getLogger("flwr")

_KEY = "fedstrategies.privacy"


class Payer(Protocol):
    """Where a node's releases are charged; noise and ledger of one client."""

    secret: Secret
    ledger: PrivacyLedger

    @property
    def mechanism(self) -> GaussianMechanism:
        """Of its releases."""

    @property
    def sample_rate(self) -> float:
        """q of its releases."""

    @property
    def budget(self) -> Budget | None:
        """What may be spent in all; None: no end."""

    def restore(self, ledger: PrivacyLedger) -> None:
        """Take note of another copy of the ledger."""


def payer_of(objective: Objective) -> PrivateObjective | None:
    """The private objective that is charged for gradients of ``objective``; None: nobody is."""
    while isinstance(objective, PersonalObjective):
        objective = objective.objective
    return objective if isinstance(objective, PrivateObjective) else None


def payers_of(objective: BatchedObjective) -> tuple[PrivateObjective, ...]:
    """The same for many clients, one a row; empty if they are not private."""
    while isinstance(objective, WrappedObjectives):
        objective = objective.inner
    return objective.members if isinstance(objective, PrivateObjectives) else ()


def save_spending(state: RecordDict, private: Payer) -> None:
    """Put secret and ledger into a node's state (replaced, never mutated)."""
    state[_KEY] = ConfigRecord(
        {
            "secret": private.secret.key,
            "simulated": private.secret.simulated,
            "ledger": private.ledger.to_bytes(),
        }
    )


def load_spending(state: RecordDict) -> tuple[Secret, PrivacyLedger] | None:
    """Secret and ledger of a node; None if it has none, or lost them."""
    record = state.get(_KEY)
    if not isinstance(record, ConfigRecord):
        return None
    key, ledger = record["secret"], record["ledger"]
    assert isinstance(key, bytes)
    assert isinstance(ledger, bytes)
    secret = Secret(key=key, simulated=bool(record["simulated"]))
    return secret, PrivacyLedger.from_bytes(ledger)


def recall(state: RecordDict, private: Payer, told: Account | None = None) -> int:
    """Take up the node's own record and what the server told.

    A secret that was simulated is never taken for a real one; simulated ones are derived anew.

    Returns
    -------
    int
        Work that may have been released without leaving a trace here: that of the unanswered
        requests if the node has no record, or one that knows less than the server; else 0.
    """
    known = load_spending(state)
    if known is not None:
        secret, ledger = known
        if not (secret.simulated or private.secret.simulated):
            private.secret = secret
        private.restore(ledger)
    if told is None:
        return 0
    private.restore(told.ledger)
    return 0 if knows(state, told.ledger) else told.unanswered


def knows(state: RecordDict, ledger: PrivacyLedger) -> bool:
    """Whether a node has a record, and one that holds all of the server's copy."""
    known = load_spending(state)
    return known is not None and known[1].covers(ledger)


def charge_unheard(private: Payer, unheard: int, *, made: int, work: int) -> None:
    """Charge what a lost record may have held beyond the server's copy.

    Parameters
    ----------
    private : Payer
        Whose ledger is charged.
    unheard : int
        Work of the requests that nobody knows the outcome of.
    made : int
        Releases that the request at hand took.
    work : int
        Its work; ``made / work`` releases go with a unit of it.

    Raises
    ------
    BudgetSpent
        If that is more than the budget allows: the charge stands, and nothing may leave.
    """
    if not (unheard and made):
        return
    per_unit = -(-made // work)
    private.ledger = private.ledger.charge(
        noise_multiplier=private.mechanism.noise_multiplier,
        sample_rate=private.sample_rate,
        steps=unheard * per_unit,
    )
    if private.budget is not None and not private.budget.allows(private.ledger):
        raise BudgetSpent(
            f"the privacy budget may be spent: this node lost its record, and requests that "
            f"nobody knows the outcome of count as {unheard * per_unit} releases"
        )


@lru_cache(maxsize=1)
def say_that_noise_is_simulated() -> None:
    """Once a process."""
    logger.warning(
        "privacy is simulated: the noise is a function of the public seed and protects nothing; "
        "what clients report of their losses and accuracies is outside epsilon"
    )
