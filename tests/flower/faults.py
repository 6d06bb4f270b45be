"""An in-process grid on which messages get lost, late, doubled, redelivered and corrupted."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, RecordDict

from fedstrategies.engines import CohortGrid
from fedstrategies.flower.private import client_error, identify


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities per message of a train round."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    delay_reply: float = 0.0
    duplicate_reply: float = 0.0
    redeliver_request: float = 0.0
    corrupt_reply: float = 0.0
    wipe_state: float = 0.0
    crash_after_commit: float = 0.0


class FaultyGrid(CohortGrid):
    """A seeded schedule of faults; ``faults`` may be changed between rounds."""

    def __init__(self, *args: Any, faults: Faults, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, fast="never", **kwargs)
        self.faults = faults
        self.draw = np.random.default_rng(seed)
        self.late: list[Message] = []
        self.old_requests: list[Message] = []
        self.happened: dict[str, int] = {}

    def _happens(self, name: str) -> bool:
        hit = bool(self.draw.random() < getattr(self.faults, name))
        self.happened[name] = self.happened.get(name, 0) + hit
        return hit

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != MessageType.TRAIN:
            return super().send_and_receive(messages, timeout=timeout)
        replies, self.late = self.late, []
        for message in messages:
            identify(message)
            node = message.metadata.dst_node_id
            if self._happens("wipe_state"):
                self.contexts[node].state = RecordDict()
            if self._happens("lose_request"):
                continue
            if self.old_requests and self._happens("redeliver_request"):
                old = self.old_requests[int(self.draw.integers(len(self.old_requests)))]
                self.late.append(self.execute(old, old.metadata.dst_node_id))
            before = copy(self.contexts[node])
            reply = self.execute(message, node)
            self.old_requests = [*self.old_requests[-40:], message]
            if self._happens("crash_after_commit"):
                self.contexts[node] = before
                reply = client_error("the process was killed", message)
            if self._happens("lose_reply"):
                continue
            if self._happens("delay_reply"):
                self.late.append(reply)
                continue
            if self._happens("corrupt_reply") and not reply.has_error():
                reply = self._corrupted(reply)
            replies.append(reply)
            if self._happens("duplicate_reply"):
                replies.append(reply)
        order = self.draw.permutation(len(replies))
        return [replies[i] for i in order]

    def _corrupted(self, reply: Message) -> Message:
        content = RecordDict(dict(reply.content))
        for name, record in reply.content.array_records.items():
            arrays = {}
            for key, array in record.items():
                data = bytearray(array.data)
                data[int(self.draw.integers(len(data)))] ^= 1 << int(self.draw.integers(8))
                arrays[key] = Array(
                    dtype=array.dtype, shape=array.shape, stype=array.stype, data=bytes(data)
                )
            content[name] = ArrayRecord(arrays)
        return Message(content, metadata=reply.metadata)
