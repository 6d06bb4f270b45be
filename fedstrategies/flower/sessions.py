"""What an engine gives to the shell: whole cohorts in one call, without messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower.contract import Delivery
from fedstrategies.flower.rules import ClientRule
from fedstrategies.privacy import PrivateObjective

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = [
    "BatchingGrid",
    "CohortSession",
    "StepRequest",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepRequest:
    """The arguments of `CohortSession.step`, but for the memory."""

    rule: ClientRule
    x: Tensor
    keys: Tensor
    clients: Tensor


class CohortSession(Protocol):
    """All clients of a grid at once, for the fast path: no message is sent."""

    @property
    def num_examples(self) -> Tensor:
        """m_i of the clients in partition order: int64, shape (n,)."""

    @property
    def payers(self) -> Sequence[PrivateObjective]:
        """Where the clients' releases are charged, in partition order; empty: nowhere."""

    def announce(self, steps: Sequence[StepRequest]) -> None:
        """These steps are asked for next, one by one in this order: begin with them if you can."""

    def step(
        self,
        rule: ClientRule,
        memory: Mapping[str, Tensor],
        x: Tensor,
        keys: Tensor,
        *,
        clients: Tensor,
    ) -> tuple[Payload, Tensor]:
        """``rule.step`` of some clients, wherever and however many at a time it is computed.

        Parameters
        ----------
        rule : ClientRule
            One for all of them; an `IndividualRule` has a row for each of the n clients.
        memory : mapping
            The strategy's copy of the effective memories, shape (n, d) each.
        x : Tensor
            What they are sent: shape (d,), or (r, d) for a `GuidedRule`.
        keys : Tensor
            int64, shape (C,): their streams.
        clients : Tensor
            int64, shape (C,), ascending: their partitions.

        Returns
        -------
        tuple
            Messages and losses in that order; the same bits however the work is divided.
        """

    def settle(self, deliveries: Sequence[Delivery], settlement: Tensor) -> None:
        """The round is committed: these uploads were used, and are settled by ``settlement``."""

    def flush(self, strategy: BaseStrategy) -> None:
        """Give each node its state, so that messages can go on from here."""

    def close(self, strategy: BaseStrategy) -> None:
        """Flush, and release what the session holds."""


@runtime_checkable
class BatchingGrid(Protocol):
    """A grid that can run whole cohorts without messages."""

    def open_cohort(self, strategy: BaseStrategy) -> CohortSession | None:
        """A session, or None where skipping messages would skip something of the user's."""
