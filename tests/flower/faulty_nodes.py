"""What nodes may do in place of answering once, and how one goes and another comes."""

from __future__ import annotations

from collections import Counter, deque
from copy import copy
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict

from fedstrategies.engines import CohortGrid
from fedstrategies.flower.private import client_error
from tests.flower.damage import Disturbance, of_another_run
from tests.flower.released import on_its_ledger, released

JITTER = 1e-12
"""Relative error of a client whose bits are not the same twice."""

_REMEMBERED = 40


class FaultyNodes(CohortGrid):
    """Nodes with one method for each thing that can go wrong on them.

    Parameters
    ----------
    draw : numpy.random.Generator
        Of all chances.
    disturbance : Disturbance or None
        That of the app's clients (`damage.unsteady`), for the faults that are of their arithmetic.
    """

    fixed_membership = False

    def __init__(
        self,
        *args: Any,
        draw: np.random.Generator,
        disturbance: Disturbance | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, fast="never", **kwargs)
        self.draw = draw
        self.disturbance = Disturbance() if disturbance is None else disturbance
        self._old_replies: deque[Message] = deque(maxlen=_REMEMBERED)
        # By partition: releases of private nodes that are in no state any more.
        self._forgotten: Counter[int] = Counter()

    def answers(self, message: Message, node: int) -> Message:
        """As it should."""
        reply = self.execute(message, node)
        self._old_replies.append(reply)
        return reply

    def crashes(self, message: Message, node: int) -> list[Message]:
        """Its process ends after the client has stored its state: nothing lasts."""
        before = copy(self.contexts[node])
        self.execute(message, node)
        self.contexts[node] = before
        return [client_error("the process was killed", message)]

    def raises(self, message: Message, node: int) -> list[Message]:
        """The client changes its state and raises."""
        sound = self.app

        def unsound(message: Message, context: Context) -> Message:
            sound(message, context)
            raise RuntimeError("a client that raises")

        self.app = unsound  # type: ignore[assignment]
        try:
            return [self.execute(message, node)]
        finally:
            self.app = sound

    def computes_nan(self, message: Message, node: int) -> list[Message]:
        """All its numbers are lost."""
        with self.disturbance.at(float("nan")):
            return [self.execute(message, node)]

    def recomputes(self, message: Message, node: int) -> list[Message]:
        """It answers, forgets that it did, and computes the same in other bits."""
        before = copy(self.contexts[node])
        first = self.execute(message, node)
        self.contexts[node] = before
        with self.disturbance.at(JITTER):
            second = self.execute(message, node)
        return [[first], [second], [first, second]][int(self.draw.integers(3))]

    def overlap(self, message: Message, other: Message, node: int) -> list[Message]:
        """Two executions from one state: both answer, and one's state stays."""
        before = copy(self.contexts[node])
        first = self.execute(message, node)
        after = self.contexts[node]
        self.contexts[node] = before
        with self.disturbance.at(JITTER):
            second = self.execute(other, node)
        if self.draw.random() < 0.5:
            self.contexts[node] = after
        return [first, second]

    def answers_another_round(self, message: Message, node: int) -> list[Message]:
        """It works, and what arrives is an earlier reply of it, if there is one."""
        self.answers(message, node)
        known = [old for old in self._old_replies if old.metadata.src_node_id == node]
        return [known[int(self.draw.integers(len(known)))]]

    def answers_another_run(self, message: Message, node: int) -> list[Message]:
        """What arrives is its answer to another server, which knew it by another state."""
        before = copy(self.contexts[node])
        self.contexts[node].state = RecordDict()
        reply = self.execute(of_another_run(message), node)
        self.contexts[node] = before
        return [reply]

    def wipe(self, node: int) -> None:
        """The node has forgotten everything; what a private one released is released."""
        context = self.contexts[node]
        self._forgotten[self.partitions[node]] += released(context.state)
        context.state = RecordDict()

    def released(self, node: int) -> int:
        """Releases that a private node has really made, also before it forgot them."""
        return self._forgotten[self.partitions[node]] + released(self.contexts[node].state)

    def forgive(self, node: int) -> None:
        """From here on no more than the node's own ledger says."""
        too_many = self.released(node) - on_its_ledger(self.contexts[node].state)
        self._forgotten[self.partitions[node]] -= max(too_many, 0)

    def replace_node(self, node: int) -> int:
        """A node is gone; the new one with its partition is given back."""
        self.wipe(node)
        fresh = 1 + max(self.partitions)
        partition, before = self.partitions[node], self.contexts[node]
        context = Context(
            run_id=before.run_id,
            node_id=fresh,
            node_config=before.node_config,
            state=RecordDict(),
            run_config=before.run_config,
        )
        places = {fresh if one == node else one: one for one in self.contexts}
        self.contexts = {
            new: context if new == fresh else self.contexts[old] for new, old in places.items()
        }
        self.partitions = {
            new: partition if new == fresh else self.partitions[old] for new, old in places.items()
        }
        return fresh
