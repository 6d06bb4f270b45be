"""What an algorithm asks of its clients in a round, and makes of what they send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower.rules import ClientRule, IndividualRule

__all__ = [
    "Assignment",
    "Delivery",
    "Update",
]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A group of clients with the same rule in a round.

    Attributes
    ----------
    partition_ids : Tensor
        int64, shape (C,), ascending.
    rule : ClientRule
        What they do; an `IndividualRule` if ``individual`` is not empty.
    constants, spec : tuple of float, str
        The rule as it travels; the client builds its rule from these alone.
    individual : tuple of tuple of float
        Further constants of each client's own, in the order of ``partition_ids``; they travel
        behind the shared ones, equally many for everyone. Empty: none.
    settlements : mapping of int to Tensor
        By partition id, for clients whose last used upload needs it: what the round that used it
        settled on, shape (d,), where that is not the model they are sent now.
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
        Who answered: int64, shape (C',), ascending, a subset of the assignment's.
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
