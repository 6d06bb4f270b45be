"""What the server remembers of clients that compress their updates."""

from __future__ import annotations

from collections.abc import Mapping, Set

from torch import Tensor

from fedstrategies.flower.control import MemoryCommand
from fedstrategies.flower.ledger import Ledger

__all__ = ["Copies"]


class Copies:
    """The server's books: accepted uploads, and g_i of every client that has a memory.

    Clients are numbered in the order in which they are first asked, by node id in a round.
    Memories belong to nodes here, not to partitions: the ClientApp need not answer queries, and a
    node that is new starts from g_i = 0.
    """

    def __init__(self) -> None:
        self.ledger = Ledger(0)
        self.round = 0
        self._number: dict[int, int] = {}
        self._g: dict[int, Tensor] = {}
        self._last_there: dict[int, int] = {}

    @property
    def memories(self) -> Mapping[int, Tensor]:
        """g_i by node id, shape (d,)."""
        return {node: self._g[i] for node, i in self._number.items() if i in self._g}

    def number(self, node: int) -> int:
        """A node's number; a new one gets the next."""
        if node not in self._number:
            self._number[node] = len(self._number)
            self._last_there[node] = self.round
            self.ledger.enrol(len(self._number))
        return self._number[node]

    def knows(self, node: int) -> bool:
        """Whether a node was ever asked."""
        return node in self._number

    def memory(self, number: int) -> Tensor | None:
        """g_i, shape (d,); None of a client without memory."""
        return self._g.get(number)

    def command(self, number: int) -> MemoryCommand:
        """What to order about a memory; a client without one is ordered to start anew."""
        if number not in self._g:
            return MemoryCommand.ZERO
        return self.ledger.recovery(number)

    def forget_absent(self, connected: Set[int], *, after: int) -> None:
        """Give up g_i of nodes that were not connected for so many rounds, this one included.

        A node keeps its number. If it comes back `command` orders it to start anew, whatever it
        remembers, and answers to what it was asked before are of another attempt.
        """
        for node, number in self._number.items():
            if node in connected:
                self._last_there[node] = self.round
            elif self.round - self._last_there[node] >= after:
                self._g.pop(number, None)

    def commit(self, number: int, g: Tensor | None) -> None:
        """The upload that leads to g was used; None: the client has no memory."""
        if g is None:
            self._g.pop(number, None)
        else:
            self._g[number] = g
