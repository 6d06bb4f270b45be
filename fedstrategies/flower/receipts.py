"""Exactly-once memory: the receipts that client and server exchange.

A stateful method is correct only if a client's memory advances exactly when the server used its
upload. Requests and replies may be lost, late, duplicated or redelivered, a node may restart
empty, and round numbers cannot tell these apart. Receipts can:

* every *attempt* at a round has an id (session, sequence) that is never used again;
* an upload's *tag* is the attempt's id and the checksum of the bytes;
* each request acknowledges the tag of the last upload of that client which the server used;
* a client keeps its committed memory and the bytes of its one pending upload, and lets the
  acknowledgement decide: pending tag -> commit, committed tag -> roll back, else -> lost.

This module is the client's side of it; `control` has the fields, `ledger` the server's side, and
docs/reliability.md lists the faults and the rule that covers each.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from fedstrategies.flower.control import (
    ORIGIN,
    VERSION,
    MemoryCommand,
    Request,
    Response,
    Status,
    Tag,
)
from fedstrategies.flower.errors import ProtocolError

__all__ = ["Decision", "Pending", "Receipts"]

_RECEIPTS = struct.Struct("<B20sQQ")
_PENDING = struct.Struct("<20sIIdBB")


@dataclass(frozen=True, kw_only=True)
class Pending:
    """The one upload whose fate a client does not know yet.

    The bytes are kept, not the memory they lead to: k values in place of d, and a commit
    applies exactly what the server decoded. ``blob`` is empty for a client without memory, which
    has nothing to commit, and computes its upload again if the request is redelivered.
    """

    tag: Tag
    base: int
    round: int
    blob: bytes
    loss: float
    constants: tuple[float, ...]
    spec: str

    def response(self, request: Request) -> Response:
        """The control fields with which it answers a request."""
        return Response(
            status=Status.UPLOAD,
            session=request.session,
            sequence=request.sequence,
            round=self.round,
            base=self.base,
        )


class Decision(IntEnum):
    """What a client does with a request."""

    RESEND = 0
    STALE = 1
    LOST = 2
    REPLACE = 3  # take the memory that the request orders, then compute
    COMMIT = 4  # advance the memory by the pending upload, then compute
    ROLL_BACK = 5  # drop the pending upload (if any), then compute


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """A client's side of the protocol (its memory is kept beside it).

    Attributes
    ----------
    committed : Tag
        The upload up to which the memory is committed.
    seen : tuple of int
        Highest attempt id this client has acted on.
    pending : Pending or None
        Upload without a receipt.
    """

    committed: Tag = ORIGIN
    seen: tuple[int, int] = (0, 0)
    pending: Pending | None = None

    def to_bytes(self) -> bytes:
        """Pack, pending upload included, for the client's state."""
        head = _RECEIPTS.pack(VERSION, self.committed.to_bytes(), *self.seen)
        pending = self.pending
        if pending is None:
            return head
        text = pending.spec.encode()
        return b"".join(
            (
                head,
                _PENDING.pack(
                    pending.tag.to_bytes(),
                    pending.base,
                    pending.round,
                    pending.loss,
                    len(pending.constants),
                    len(text),
                ),
                struct.pack(f"<{len(pending.constants)}d", *pending.constants),
                text,
                pending.blob,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipts:
        """Unpack what `to_bytes` made.

        Raises
        ------
        ProtocolError
            If another version of the protocol wrote it, or it is cut or damaged.
        """
        if len(data) < _RECEIPTS.size:
            raise ProtocolError(
                f"client state: {len(data)} bytes, at least {_RECEIPTS.size} needed"
            )
        version, committed, session, sequence = _RECEIPTS.unpack_from(data)
        if version != VERSION:
            raise ProtocolError(f"client state of protocol version {version}, not {VERSION}")
        seen = (session, sequence)
        if len(data) == _RECEIPTS.size:
            return cls(committed=Tag.from_bytes(committed), seen=seen)
        start = _RECEIPTS.size + _PENDING.size
        if len(data) < start:
            raise ProtocolError(f"client state: {len(data)} bytes end in its pending upload")
        tag, base, round, loss, count, length = _PENDING.unpack_from(data, _RECEIPTS.size)
        end = start + 8 * count
        if len(data) < end + length:
            raise ProtocolError(f"client state: {len(data)} bytes do not fit its own counts")
        try:
            spec = data[end : end + length].decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"client state: {error}") from None
        pending = Pending(
            tag=Tag.from_bytes(tag),
            base=base,
            round=round,
            loss=loss,
            constants=struct.unpack_from(f"<{count}d", data, start),
            spec=spec,
            blob=data[end + length :],
        )
        return cls(committed=Tag.from_bytes(committed), seen=seen, pending=pending)

    def decide(self, request: Request) -> Decision:
        """The client rule; the order of the tests matters."""
        again = self.pending is not None and self.pending.tag.attempt == request.attempt
        if self.pending is not None and again and self.pending.blob:
            return Decision.RESEND
        if request.attempt <= self.seen and not again:
            return Decision.STALE
        if request.memory is not MemoryCommand.KEEP:
            return Decision.REPLACE
        if self.pending is not None and self.pending.tag == request.ack:
            return Decision.COMMIT
        if self.committed == request.ack:
            return Decision.ROLL_BACK
        return Decision.LOST

    def after_lost(self, request: Request) -> Receipts:
        """Remember only that the request was seen."""
        return replace(self, seen=request.attempt)

    def without_blob(self) -> Receipts:
        """The same of a client that will compute its pending upload again rather than keep it."""
        if self.pending is None:
            return self
        return replace(self, pending=replace(self.pending, blob=b""))

    def after_upload(self, request: Request, blob: bytes, loss: float) -> Receipts:
        """Committed up to ``request.ack``; ``blob`` is pending."""
        tag = Tag.of(request.attempt, blob)
        pending = Pending(
            tag=tag,
            base=request.ack.digest(),
            round=request.round,
            blob=blob,
            loss=loss,
            constants=request.constants,
            spec=request.spec,
        )
        return Receipts(committed=request.ack, seen=request.attempt, pending=pending)
