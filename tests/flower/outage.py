"""A grid all of whose nodes are out of reach for a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Error, Message, MessageType

from fedstrategies.flower.private import identify
from tests.flower.faults import Faults, FaultyGrid


class Outage(FaultyGrid):
    """For some exchanges every request ends with an error of Flower's, which is not the app's."""

    def __init__(self, *args: Any, code: int, exchanges: int, **kwargs: Any) -> None:
        super().__init__(*args, faults=Faults(), **kwargs)
        self.code, self.left = code, exchanges

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        training = any(one.metadata.message_type == MessageType.TRAIN for one in messages)
        if not (self.left and training):
            return super().send_and_receive(messages, timeout=timeout)
        self.left -= 1
        for message in messages:
            identify(message)
        error = Error(code=self.code, reason="the actor died")
        return [Message(error, reply_to=message) for message in messages]
