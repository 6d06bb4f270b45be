"""One algorithm's client half, as the shell and the engines call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.objectives import BatchedObjective

__all__ = [
    "AssembledRule",
    "ClientRule",
    "GuidedRule",
    "IndividualRule",
    "MovedRule",
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
