"""What an attempt at a communication round is, whichever way it travels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower.account import work_of
from fedstrategies.flower.contract import Assignment
from fedstrategies.flower.control import Request
from fedstrategies.flower.edition import Edition
from fedstrategies.flower.errors import AllClientsFailed
from fedstrategies.flower.update_norm import origin_of, too_large, update_norms
from fedstrategies.random import Purpose, client_keys

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["MOST_OUTAGES", "Attempt"]


MOST_OUTAGES = 5
"""Attempts in a row in which all clients are out of reach before a run is given up."""


class Attempt(ABC):
    """What both kinds share: the plan, the failures and who is to blame.

    Attributes
    ----------
    round : int
        Communication round t.
    failures : list of str
        One line per client whose upload is not used.
    must_reset : bool
        A memory is lost and the server has no copy.
    faulty : dict of int to str
        Partitions that failed by their own fault, and how.
    unreachable : dict of int to str
        Partitions in whose place Flower answered with an error that is not the app's: a process
        that died, a message that nobody fetched.
    spent : set of int
        Those of them whose privacy budget allows no release any more.
    edition : Edition or None
        The model as clients are to rebuild it, where the downlink is compressed.
    """

    def __init__(self, strategy: BaseStrategy, round: int) -> None:
        self.strategy = strategy
        self.round = round
        self.plan = strategy.plan(round)
        broadcast = strategy.broadcast
        self.edition = None if broadcast is None else broadcast.propose(strategy.x, round)
        self.failures: list[str] = []
        self.must_reset = False
        self.faulty: dict[int, str] = {}
        self.unreachable: dict[int, str] = {}
        self.spent: set[int] = set()

    @property
    def asked(self) -> int:
        """Clients in the cohort."""
        return sum(len(assignment.partition_ids) for assignment in self.plan)

    @property
    def work(self) -> dict[int, int]:
        """Gradient steps each of them is asked for, by partition; see `work_of`."""
        return {
            partition: work_of(assignment.rule_of(position))
            for assignment in self.plan
            for position, partition in enumerate(assignment.partition_ids.tolist())
        }

    def raise_if_hopeless(self) -> None:
        """Raise if every client of the cohort failed by its own fault (not by a lost message).

        Or if all could not be reached, with an error of Flower's for each, in several attempts in a
        row: what answers at once, with errors alone, may do so for ever.
        """
        if self.faulty and self.strategy.hopeless(len(self.faulty), self.asked):
            raise AllClientsFailed(
                f"round {self.round}: all {len(self.faulty)} clients failed; the first said: "
                f"{self.faulty[min(self.faulty)]}"
            )
        down = self.unreachable and len(self.unreachable) + len(self.faulty) >= self.asked
        self.strategy.outages = self.strategy.outages + 1 if down else 0
        if self.strategy.outages >= MOST_OUTAGES:
            raise AllClientsFailed(
                f"round {self.round}: none of the {self.asked} clients could be reached in "
                f"{MOST_OUTAGES} attempts in a row; the first error: "
                f"{self.unreachable[min(self.unreachable)]}"
            )

    def sent(self, assignment: Assignment) -> Tensor:
        """What the clients of an assignment work at: shape (d,) or (r, d)."""
        if assignment.point is not None:
            return assignment.point
        return self.strategy.x if self.edition is None else self.edition.w

    def excesses(self, assignment: Assignment, payload: Payload) -> list[str]:
        """What is too large about each message of an assignment's clients; empty: nothing."""
        bound = self.strategy.max_update_norm
        if bound is None:
            return [""] * len(payload)
        norms = update_norms(payload, origin_of(assignment, self.sent(assignment)))
        return [too_large(norm, bound) if norm > bound else "" for norm in norms]

    def edition_of(self, assignment: Assignment) -> Edition | None:
        """What they rebuild it from; None if it is sent as it is."""
        return None if assignment.parts or assignment.point is not None else self.edition

    def frames(self, assignment: Assignment) -> tuple[Payload, ...]:
        """How that travels: one payload (C = 1) a frame."""
        if assignment.parts:
            return assignment.parts
        vector = self.sent(assignment).reshape(1, -1)
        return (Payload(dimension=vector.shape[1], values=Floats(vector)),)

    @abstractmethod
    def settle(self, settlement: Tensor) -> None:
        """The round is committed: note which uploads were used, settled by ``settlement``."""

    def keys(self, assignment: Assignment) -> Tensor:
        """The round's random stream of each client of an assignment: int64, shape (C,)."""
        return client_keys(self.strategy.seed, self.round, assignment.partition_ids, Purpose.CLIENT)

    def request(self, assignment: Assignment, position: int, key: int) -> Request:
        """The control fields for the client at a position of the assignment, without recovery."""
        ledger = self.strategy.ledger
        partition = int(assignment.partition_ids[position])
        return Request(
            session=ledger.session,
            sequence=ledger.sequence,
            round=self.round,
            key=key,
            ack=ledger.accepted(partition),
            constants=assignment.constants_of(position),
            spec=assignment.spec,
            settlement=partition in assignment.settlements,
        )
