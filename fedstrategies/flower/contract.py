"""What an algorithm gives to the shell, and what the shell gives to callers and engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.objectives import BatchedObjective
from fedstrategies.privacy import PrivateObjective

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = [
    "AssembledRule",
    "Assignment",
    "BatchingGrid",
    "Callback",
    "ClientRule",
    "CohortSession",
    "Delivery",
    "GuidedRule",
    "IndividualRule",
    "MovedRule",
    "ResumableCallback",
    "RoundRecord",
    "StepRequest",
    "Update",
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

        ``settlement`` is what the round that used them settled on (`Update.settlement`, (d,)),
        for algorithms that need it.
        """

    def template(self, dimension: int, dtype: torch.dtype) -> Payload:
        """A payload of the kind this rule sends (C = 1); uploads of other kinds are refused."""


@runtime_checkable
class IndividualRule(ClientRule, Protocol):
    """A rule with constants of each client's own, one per row of memory and objective."""

    def row(self, index: int) -> ClientRule:
        """The rule as the client in row ``index`` has it, alone."""

    def rows(self, selection: Tensor) -> ClientRule:
        """The rule for the clients in some rows (int64, ascending), which become its rows."""


@runtime_checkable
class GuidedRule(ClientRule, Protocol):
    """A rule that is sent several vectors: its ``step`` takes x of shape (vectors, d)."""

    vectors: int


@runtime_checkable
class MovedRule(ClientRule, Protocol):
    """A rule that sends models: its update is the upload less the model it began from."""

    def origin(self, sent: Tensor) -> Tensor:
        """That model, of the length of an upload, from what ``step`` takes as x."""


@runtime_checkable
class AssembledRule(ClientRule, Protocol):
    """A rule whose model arrives in several frames, not as one dense vector."""

    lengths: tuple[int, ...]
    """Dimension of each frame, in order."""

    def assemble(self, parts: Sequence[Payload]) -> Tensor:
        """What ``step`` takes as x, shape (d,), from one payload (C = 1) a frame.

        Raises
        ------
        ValueError
            If a frame is not of the kind expected in its place.
        """


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A group of clients with the same rule in a round.

    Attributes
    ----------
    partition_ids : Tensor
        int64, ascending.
    rule : ClientRule
        What they do; an `IndividualRule` if ``individual`` is not empty.
    constants, spec : tuple of float, str
        The rule as it travels; the client builds its rule from these alone.
    individual : tuple of tuple of float
        Further constants of each client's own, in the order of ``partition_ids``; they travel
        behind the shared ones, equally many for everyone. Empty: none.
    settlements : mapping of int to Tensor
        For clients whose last used upload needs it: what the round that used it settled on,
        where that is not the model they are sent now.
    point : Tensor or None
        What travels in place of the model, shape (d,), or (r, d) if the rule is a `GuidedRule`
        of r vectors; None: the model.
    parts : tuple of Payload
        How that travels if the rule is an `AssembledRule`: one frame each (C = 1), whose
        ``assemble`` gives ``point``. Empty: as one dense vector.
    """

    partition_ids: Tensor
    rule: ClientRule
    constants: tuple[float, ...]
    spec: str
    individual: tuple[tuple[float, ...], ...] = ()
    settlements: Mapping[int, Tensor] = field(default_factory=dict)
    point: Tensor | None = None
    parts: tuple[Payload, ...] = ()

    def constants_of(self, position: int) -> tuple[float, ...]:
        """All constants of the client at a position of ``partition_ids``."""
        return (*self.constants, *self.individual[position]) if self.individual else self.constants

    def rule_of(self, position: int) -> ClientRule:
        """The rule of the client at a position of ``partition_ids``, as it must build it."""
        if not self.individual:
            return self.rule
        assert isinstance(self.rule, IndividualRule)
        return self.rule.row(int(self.partition_ids[position]))


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


def _nothing() -> None:
    """The room's own state does not move."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a round changes; nothing of it has happened yet.

    Attributes
    ----------
    x : Tensor
        The new model, shape (d,).
    follow : callable
        Makes the room's own state follow. A round is committed as a whole or not at all: the
        state changes here and nowhere else.
    settlement : Tensor or None
        What memories are committed by, shape (d,); None: the new model.
    """

    x: Tensor
    follow: Callable[[], None] = _nothing
    settlement: Tensor | None = None

    @property
    def moves_state(self) -> bool:
        """Whether there is state of the room's own to follow."""
        return self.follow is not _nothing


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a callback learns after each round.

    Attributes
    ----------
    round : int
        t, from 1.
    outer_round : int
        Cohorts done with: t itself, except where a cohort is asked for several rounds.
    x : Tensor
        Server model after the round, shape (d,). Not to be changed.
    participants, failures : int
        Uploads used; clients asked whose upload was not.
    uplink_bytes, downlink_bytes, recovery_bytes : int
        Bytes that travelled so far over all clients; recovery is not part of downlink.
    """

    round: int
    outer_round: int
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


@runtime_checkable
class ResumableCallback(Callback, Protocol):
    """One with a state of its own, which checkpoints keep.

    Others are told of the start where a run goes on from a checkpoint, with the model it has.
    """

    def state(self) -> Mapping[str, object]:
        """What must survive this process, as `fedstrategies.snapshots` can hold it.

        Asked for between rounds; what this callback wrote to files must be on the disk.
        """

    def on_resume(self, kept: Mapping[str, Any], x: Tensor) -> bool | None:
        """In place of ``on_start``: go on from what `state` gave, with the model x^t, (d,).

        True: there is nothing left to do, as of ``on_round``. A ValueError refuses the checkpoint.
        """


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
