"""Memories that an actor's nodes are still to get, by the rows of the actor."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import Context
from torch import Tensor

from fedstrategies.engines.handover import Handover
from fedstrategies.flower.ledger import Ledger

__all__ = ["RowHandover"]


class RowHandover(Handover):
    """A `Handover` whose memories and ledger have a row for each of an actor's partitions.

    Parameters
    ----------
    memory : mapping
        Shape (clients of the actor, d) each; not copied, and looked up when a row is written.
    ledger : Ledger
        When each row was moved on.
    rows : mapping of int to int
        Row of each partition whose node is to get it.
    """

    def __init__(
        self, memory: Mapping[str, Tensor], ledger: Ledger, rows: Mapping[int, int]
    ) -> None:
        super().__init__(memory, ledger, rows.values())
        self._rows = rows

    @property
    def done(self) -> bool:
        """Whether no node is owed anything any more."""
        return not self._waiting

    def write(self, partition: int, context: Context) -> None:
        """Give the node of ``partition`` its memory, if it is owed it."""
        if partition in self._rows:
            super().write(self._rows[partition], context)
