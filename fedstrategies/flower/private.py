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

__all__ = [
    "client_error",
    "client_raised",
    "ensure_identity",
    "fault_of_the_app",
    "identify",
    "over_the_wire",
    "serialised_size",
]


_FAULTS_OF_THE_APP = frozenset(
    {
        ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        ErrorCode.MOD_FAILED_PRECONDITION,
        ErrorCode.INVALID_FAB,
    }
)


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


def client_raised(reply: Message) -> bool:
    """Whether an error reply is from a ClientApp that raised, and not from the SuperLink."""
    return reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def fault_of_the_app(reply: Message) -> bool:
    """Whether an error reply tells of the ClientApp; if not, of a machine, a process or the way.

    A Ray worker that died and a message that nobody fetched in time are such: another attempt may
    succeed.
    """
    return reply.error.code in _FAULTS_OF_THE_APP


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


def serialised_size(message: Message) -> int:
    """Bytes of a message's content as Flower serialises it: every object, headers included."""
    with no_object_id_recompute():
        return sum(len(item.deflate()) for item in get_all_nested_objects(message.content).values())
