"""Every use of Flower's private names, in one place (they move between minor releases)."""

from __future__ import annotations

import uuid

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["client_error", "ensure_identity", "identify", "over_the_wire"]


def ensure_identity() -> None:
    """Let instruction messages be built outside a ServerApp; leave a real identity alone."""
    for name in ("run_id", "task_id", "node_id"):
        try:
            getattr(TaskIdentity, name)
        except RuntimeError:
            setattr(TaskIdentity, name, 1)


def identify(message: Message) -> str:
    """Give a message an id, as a SuperLink would, and return it."""
    message_id = uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def client_error(reason: str, request: Message) -> Message:
    """The reply of a node whose ClientApp raised."""
    return Message(
        Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=request
    )


def over_the_wire(message: Message) -> Message:
    """The message after Flower's own serialisation and back."""
    message_id = message.metadata.message_id
    with no_object_id_recompute():
        raw = {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
        root = message.object_id
    arrived = inflate_object_from_contents(root, raw)
    assert isinstance(arrived, Message)
    arrived.metadata.__dict__["_message_id"] = message_id
    return arrived
