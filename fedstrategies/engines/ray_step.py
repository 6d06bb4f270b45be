"""One step of a rule, divided among actors and put together again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.engines.gathering import Gathering
from fedstrategies.engines.ray_answer import Answer
from fedstrategies.engines.ray_shard import Shard
from fedstrategies.flower import ClientRule, IndividualRule

__all__ = ["Underway", "rule_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Underway:
    """A step that actors are working on.

    Attributes
    ----------
    clients : Tensor
        Partitions, ascending.
    answers : list of Answer
        Of the actors that own some of them.
    order : Tensor
        Which of the messages, as they lie in the answers, is each client's.
    """

    clients: Tensor
    answers: list[Answer]
    order: Tensor

    def result(self) -> tuple[Payload, Tensor]:
        """Messages and losses, once all are there."""
        gathering, start = Gathering(len(self.clients)), 0
        for answer in self.answers:
            payload, losses = answer.get().content
            gathering.put(start, payload, losses)
            start += len(losses)
        payload, losses = gathering.result()
        if bool((self.order.diff() == 1).all()):
            return payload, losses
        return payload.rows(self.order), losses[self.order]


def rule_of(rule: ClientRule, shard: Shard) -> ClientRule:
    """What the rule is for a shard's rows.

    Raises
    ------
    TypeError
        If clients have constants of their own that cannot be told apart.
    """
    if isinstance(rule, IndividualRule):
        return rule.rows(shard.partitions)
    if hasattr(rule, "row"):
        raise TypeError(
            f"{type(rule).__name__} has row() and no rows(): actors need the rule of their own "
            "clients, see fedstrategies.flower.IndividualRule"
        )
    return rule
