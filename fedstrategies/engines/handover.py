"""Client memories that nodes get when somebody looks at them, and not before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Context, RecordDict
from torch import Tensor

from fedstrategies.flower.ledger import Ledger
from fedstrategies.flower.records import save_memory

__all__ = ["Handover"]


class Handover:
    """The rows of a strategy's memories that nodes are still to get.

    Writing them all when a session ends would hold every client's memory twice, and most are not
    looked at before the next session replaces them. A row is what its client remembers for as
    long as the client's last used upload is the same: the strategy moves it with the next one. So
    a row that has moved on since is not written, and its node, whose receipts then name an
    upload older than the ledger's, is restored as one that lost its memory.

    Parameters
    ----------
    memory : mapping
        Shape (n, d) each; not copied.
    ledger : Ledger
        Which uploads were used.
    partitions : iterable of int
        Those whose nodes are to get their rows.
    """

    def __init__(
        self, memory: Mapping[str, Tensor], ledger: Ledger, partitions: Iterable[int]
    ) -> None:
        self._memory, self._ledger = memory, ledger
        self._sequence = ledger.sequence
        self._waiting = set(partitions)

    def write(self, partition: int, context: Context) -> None:
        """Give the node of ``partition`` its memory, if it is owed it."""
        if partition not in self._waiting:
            return
        self._waiting.discard(partition)
        if self._ledger.accepted(partition).sequence > self._sequence:
            return
        state = RecordDict(dict(context.state))
        rows = slice(partition, partition + 1)
        save_memory(state, {name: value[rows] for name, value in self._memory.items()})
        context.state = state
