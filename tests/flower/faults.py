"""An in-process grid on which messages, nodes and the server fail by a seeded schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, MessageType

from fedstrategies.flower.private import identify
from fedstrategies.flower.spending import load_spending
from tests.flower.damage import corrupted
from tests.flower.faulty_nodes import FaultyNodes

_REMEMBERED = 40
_LONGEST_DELAY = 3


class ServerKilled(BaseException):
    """The server's process dies; no handler of its own may notice."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities: of the server's death per round, of all others per train message.

    Attributes
    ----------
    lose_request, lose_reply : float
        On the way; a lost reply leaves a client that has computed and stored its upload.
    delay_request, delay_reply : float
        One to three rounds late.
    redeliver_request : float
        An earlier request, of any node, comes once more.
    duplicate_reply : float
        It comes twice.
    corrupt_request, corrupt_reply : float
        One bit of each array is another.
    another_round, another_run : float
        The reply to an earlier request of the same node, or of another server, in its place.
    wipe_state : float
        The node has forgotten everything.
    replace_node : float
        It is gone, and another one has its partition, with nothing in its state.
    crash_after_commit : float
        The process ends after the client has stored its state; neither lasts.
    raise_error : float
        The client changes its state and raises.
    return_nan : float
        It computes NaN.
    recompute : float
        It answers, what it stored is lost, and it computes the same again in other bits.
    overlap : float
        Two executions from the same state; both answer, one's state stays.
    kill_server : float
        After the clients have worked, before the server has seen it.
    """

    lose_request: float = 0.0
    lose_reply: float = 0.0
    delay_request: float = 0.0
    delay_reply: float = 0.0
    redeliver_request: float = 0.0
    duplicate_reply: float = 0.0
    corrupt_request: float = 0.0
    corrupt_reply: float = 0.0
    another_round: float = 0.0
    another_run: float = 0.0
    wipe_state: float = 0.0
    replace_node: float = 0.0
    crash_after_commit: float = 0.0
    raise_error: float = 0.0
    return_nan: float = 0.0
    recompute: float = 0.0
    overlap: float = 0.0
    kill_server: float = 0.0


class FaultyGrid(FaultyNodes):
    """A seeded schedule of faults.

    Parameters
    ----------
    faults : Faults
        May be replaced between rounds.
    seed : int
        Of the schedule.
    **grid
        See `FaultyNodes`.

    Attributes
    ----------
    happened : dict of str to int
        How often each fault did, by the name of its probability.
    """

    def __init__(self, *args: Any, faults: Faults, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, draw=np.random.default_rng(seed), **kwargs)
        self.faults = faults
        self.happened = dict.fromkeys(vars(faults), 0)
        self._late_replies: list[tuple[int, Message]] = []
        self._late_requests: list[tuple[int, Message]] = []
        self._old_requests: deque[Message] = deque(maxlen=_REMEMBERED)
        self._newest: dict[int, Message] = {}
        self._exchanges = 0

    # ---------------------------------------------------------------- the schedule

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """One exchange with the nodes, as far as it succeeds.

        Raises
        ------
        ServerKilled
            By ``kill_server``; what was on its way to the server comes later.
        """
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != MessageType.TRAIN:
            return super().send_and_receive(messages, timeout=timeout)
        self._exchanges += 1
        replies = self._due(self._late_replies)
        requests = [(request, False) for request in self._due(self._late_requests)]
        requests += [(message, True) for message in messages]
        for place in self.draw.permutation(len(requests)):
            request, fresh = requests[place]
            replies += self._exchange(request) if fresh else self._arrived(request)
        replies = [replies[i] for i in self.draw.permutation(len(replies))]
        if self._happens("kill_server"):
            self._late_replies += [(self._exchanges + 1, reply) for reply in replies]
            raise ServerKilled
        return replies

    def _happens(self, name: str) -> bool:
        probability = getattr(self.faults, name)
        hit = bool(probability > 0.0 and self.draw.random() < probability)
        self.happened[name] += hit
        return hit

    def _due(self, late: list[tuple[int, Message]]) -> list[Message]:
        due = [message for when, message in late if when <= self._exchanges]
        late[:] = [item for item in late if item[0] > self._exchanges]
        return due

    def _later(self) -> int:
        return self._exchanges + int(self.draw.integers(1, _LONGEST_DELAY + 1))

    # ---------------------------------------------------------------- one message

    def _exchange(self, message: Message) -> list[Message]:
        """The way of a request to its node, and what of its replies is there now."""
        identify(message)
        node = message.metadata.dst_node_id
        self._newest[self.partitions[node]] = message
        if self._happens("wipe_state"):
            self.wipe(node)
        if self._happens("replace_node"):
            self.replace_node(node)
        if self._happens("lose_request"):
            return []
        if self._happens("delay_request"):
            self._late_requests.append((self._later(), message))
            return []
        if self._old_requests and self._happens("redeliver_request"):
            old = self._old_requests[int(self.draw.integers(len(self._old_requests)))]
            self._late_replies += [(self._exchanges + 1, reply) for reply in self._arrived(old)]
        if self._happens("corrupt_request"):
            message = corrupted(message, self.draw)
        replies = self._arrived(message)
        self._old_requests.append(message)
        return [arrived for reply in replies for arrived in self._returned(reply)]

    def _arrived(self, message: Message) -> list[Message]:
        """What the node does with a request; nothing if it is not there any more."""
        node = message.metadata.dst_node_id
        if node not in self.partitions:
            return []
        had_none = load_spending(self.contexts[node].state) is None
        replies = self._done(message, node)
        if had_none and self._newest.get(self.partitions[node]) is not message:
            # An old request to a node that was wiped since: a gap of privacy that
            # docs/reliability.md names among what is not covered.
            self.forgive(node)
        return replies

    def _done(self, message: Message, node: int) -> list[Message]:
        ways: dict[str, Callable[[Message, int], list[Message]]] = {
            "crash_after_commit": self.crashes,
            "raise_error": self.raises,
            "return_nan": self.computes_nan,
            "recompute": self.recomputes,
            "overlap": self._overlaps,
            "another_round": self.answers_another_round,
            "another_run": self.answers_another_run,
        }
        for name, way in ways.items():
            if self._happens(name):
                return way(message, node)
        return [self.answers(message, node)]

    def _returned(self, reply: Message) -> list[Message]:
        """The way of a reply to the server."""
        if self._happens("lose_reply"):
            return []
        if self._happens("delay_reply"):
            self._late_replies.append((self._later(), reply))
            return []
        if not reply.has_error() and self._happens("corrupt_reply"):
            reply = corrupted(reply, self.draw)
        return [reply] * (2 if self._happens("duplicate_reply") else 1)

    def _overlaps(self, message: Message, node: int) -> list[Message]:
        """With a request that is late, or else with itself."""
        late = [one for one in self._late_requests if one[1].metadata.dst_node_id == node]
        if late:
            self._late_requests.remove(late[0])
        return self.overlap(message, late[0][1] if late else message, node)
