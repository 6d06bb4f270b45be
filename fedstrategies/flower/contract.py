"""What an algorithm gives to the shell, and what the shell gives to callers and engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.objectives import BatchedObjective

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = [
    "Assignment",
    "BatchingGrid",
    "Callback",
    "ClientRule",
    "CohortSession",
    "Delivery",
    "RoundRecord",
]


class ClientRule(Protocol):
    """One algorithm's client half in one round, for C clients at once (see `efbv.algorithm`)."""

    def initial_memory(
        self, clients: int, dimension: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Tensor]:
        """Memory of clients that never took part: named tensors of shape (C, d)."""

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """Messages and losses of the participants; changes nothing."""

    def commit_(
        self,
        memory: Mapping[str, Tensor],
        payload: Payload,
        *,
        clients: Tensor | None = None,
        settlement: Tensor | None = None,
    ) -> None:
        """Advance the memory, in place, by messages the server used.

        ``settlement`` is the model (d,) of the round in which they were used, for algorithms
        that need it.
        """

    def template(self, dimension: int, dtype: torch.dtype) -> Payload:
        """A payload of the kind this rule sends (C = 1); uploads of other kinds are refused."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A group of clients with the same rule in a round.

    Attributes
    ----------
    partition_ids : Tensor
        int64, ascending.
    rule : ClientRule
        What they do.
    constants, spec : tuple of float, str
        The rule as it travels; the client builds its rule from these alone.
    settlements : mapping of int to Tensor
        For clients whose last used upload needs it: the model of the round that used it.
    """

    partition_ids: Tensor
    rule: ClientRule
    constants: tuple[float, ...]
    spec: str
    settlements: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The uploads of one assignment that the server uses.

    Attributes
    ----------
    assignment : Assignment
        What was asked.
    partition_ids : Tensor
        Who answered: int64, ascending, a subset of the assignment's.
    payload : Payload
        Their messages in that order.
    """

    assignment: Assignment
    partition_ids: Tensor
    payload: Payload


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a callback learns after each round.

    Attributes
    ----------
    round : int
        t, from 1.
    x : Tensor
        Server model after the round, shape (d,). Not to be changed.
    participants, failures : int
        Uploads used; clients asked whose upload was not.
    uplink_bytes, downlink_bytes, recovery_bytes : int
        Bytes that travelled so far over all clients; recovery is not part of downlink.
    """

    round: int
    x: Tensor
    participants: int
    failures: int
    uplink_bytes: int
    downlink_bytes: int
    recovery_bytes: int


class Callback(Protocol):
    """Follows a run; called in the server process, between rounds."""

    def on_start(self, x: Tensor) -> None:
        """Before the first round, with x^0."""

    def on_round(self, record: RoundRecord) -> bool | None:
        """After each round; True stops the run."""

    def on_end(self) -> None:
        """After the last round, also when the run failed."""


class CohortSession(Protocol):
    """All clients of a grid at once, for the in-process fast path."""

    @property
    def objective(self) -> BatchedObjective:
        """The clients' f_i in partition order."""

    def flush(self, strategy: BaseStrategy) -> None:
        """Give each node its state, so that messages can go on from here."""

    def close(self, strategy: BaseStrategy) -> None:
        """Flush, and release what the session holds."""


@runtime_checkable
class BatchingGrid(Protocol):
    """A grid that can run whole cohorts without messages."""

    def open_cohort(self, strategy: BaseStrategy) -> CohortSession | None:
        """A session, or None where skipping messages would skip something of the user's."""
