"""What a client that compresses its updates answers, and what it keeps to answer again."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedstrategies.flower.control import Request, Response, Status, pack_constants
from fedstrategies.flower.receipts import Receipts
from fedstrategies.flower.records import CONTROL, raw_array

__all__ = ["STEP", "answer", "forget_reply", "keep_reply", "refuse", "resend"]

STEP = "fedstrategies.step"
"""Key beside the control fields of a compressed reply: lambda, as 8 bytes; 0: no memory."""

_REPLY = "fedstrategies.reply/"

Record = ArrayRecord | ConfigRecord | MetricRecord


def answer(
    reply: Message, request: Request, receipts: Receipts, records: Mapping[str, Record]
) -> Message:
    """``reply`` with these records, the pending upload first among the arrays, and the fields."""
    pending = receipts.pending
    assert pending is not None
    response = pending.response(request)
    fields = {CONTROL: response.to_bytes(), STEP: pack_constants(pending.constants)}
    blob: dict[str, Array] = {CONTROL: raw_array(pending.blob)}
    reply.content = RecordDict(
        {
            **{
                name: ArrayRecord({**blob, **record}) if isinstance(record, ArrayRecord) else record
                for name, record in records.items()
            },
            CONTROL: ConfigRecord({**fields}),
        }
    )
    return reply


def keep_reply(state: RecordDict, records: Mapping[str, Record]) -> None:
    """Keep what went beside the upload, in place of what was kept before."""
    forget_reply(state)
    state.update({_REPLY + name: record for name, record in records.items()})


def forget_reply(state: RecordDict) -> None:
    """Keep nothing of it."""
    for key in [key for key in state if key.startswith(_REPLY)]:
        del state[key]


def resend(message: Message, request: Request, receipts: Receipts, state: RecordDict) -> Message:
    """What was sent for this request before, to the byte."""
    kept = {key.removeprefix(_REPLY): one for key, one in state.items() if key.startswith(_REPLY)}
    return answer(Message(RecordDict(), reply_to=message), request, receipts, kept)


def refuse(message: Message, request: Request, status: Status) -> Message:
    """An answer without an upload."""
    response = Response(
        status=status,
        session=request.session,
        sequence=request.sequence,
        round=request.round,
        base=0,
    )
    record = ConfigRecord({CONTROL: response.to_bytes()})
    return Message(RecordDict({CONTROL: record}), reply_to=message)
