"""Exactly-once memory: the receipts that client and server exchange.

A stateful method is correct only if a client's memory advances exactly when the server used its
upload. Requests and replies may be lost, late, duplicated or redelivered, a node may restart
empty, and round numbers cannot tell these apart. Receipts can:

* every *attempt* at a round has an id (session, sequence) that is never used again;
* an upload's *tag* is the attempt's id and the checksum of the bytes;
* each request acknowledges the tag of the last upload of that client which the server used;
* a client keeps its committed memory and the bytes of its one pending upload, and lets the
  acknowledgement decide: pending tag -> commit, committed tag -> roll back, else -> lost.

This module is the pure part: control fields and the two sides' decisions. `docs/reliability.md`
lists the faults and the rule that covers each.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from enum import IntEnum

from fedstrategies.flower.errors import ProtocolError

__all__ = [
    "ORIGIN",
    "Decision",
    "MemoryCommand",
    "Pending",
    "Receipts",
    "Request",
    "Response",
    "Status",
    "Tag",
]

_VERSION = 1
_TAG = struct.Struct("<QQI")
_REQUEST = struct.Struct("<BQQIq20sBBBB")
_RESPONSE = struct.Struct("<BBQQII")
_RECEIPTS = struct.Struct("<B20sQQ")
_PENDING = struct.Struct("<20sIIdBB")


@dataclass(frozen=True)
class Tag:
    """Identity of one upload: attempt id and CRC-32 of the blob (20 bytes on the wire)."""

    session: int
    sequence: int
    checksum: int

    def to_bytes(self) -> bytes:
        """Pack into 20 bytes."""
        return _TAG.pack(self.session, self.sequence, self.checksum)

    @classmethod
    def from_bytes(cls, data: bytes) -> Tag:
        """Unpack; `ProtocolError` unless ``data`` has 20 bytes."""
        if len(data) != _TAG.size:
            raise ProtocolError(f"tag: {len(data)} bytes, expected {_TAG.size}")
        return cls(*_TAG.unpack(data))

    @property
    def attempt(self) -> tuple[int, int]:
        """(session, sequence)."""
        return self.session, self.sequence

    def digest(self) -> int:
        """CRC-32 of the tag: what a reply says it was computed from."""
        return zlib.crc32(self.to_bytes())


ORIGIN = Tag(0, 0, 0)
"""The tag of a client none of whose uploads was ever used."""


class MemoryCommand(IntEnum):
    """What a request orders about the client's memory before anything else."""

    KEEP = 0
    TAKE = 1  # the server's copy follows as arrays
    ZERO = 2  # start again from the initial memory; costs no bytes


@dataclass(frozen=True, kw_only=True)
class Request:
    """Control fields of a train message.

    Attributes
    ----------
    session, sequence : int
        Attempt id.
    round : int
        Communication round t (kept when the round is redone).
    key : int
        The client's random stream for this round.
    ack : Tag
        Last upload of this client that the server used.
    memory : MemoryCommand
        Recovery order.
    settlement : bool
        Whether an array follows that the algorithm needs to commit the acknowledged upload.
    constants : tuple of float
        The algorithm's constants for this client.
    spec : str
        The compressor (or another textual setting), at most 255 bytes.
    """

    session: int
    sequence: int
    round: int
    key: int
    ack: Tag
    memory: MemoryCommand = MemoryCommand.KEEP
    settlement: bool = False
    constants: tuple[float, ...] = ()
    spec: str = ""

    @property
    def attempt(self) -> tuple[int, int]:
        """(session, sequence)."""
        return self.session, self.sequence

    def to_bytes(self) -> bytes:
        """Pack; the length depends on ``constants`` and ``spec`` alone."""
        text = self.spec.encode()
        if len(text) > 255 or len(self.constants) > 255:
            raise ProtocolError("request: more than 255 bytes of settings or 255 constants")
        head = _REQUEST.pack(
            _VERSION,
            self.session,
            self.sequence,
            self.round,
            self.key,
            self.ack.to_bytes(),
            self.memory,
            self.settlement,
            len(self.constants),
            len(text),
        )
        return head + struct.pack(f"<{len(self.constants)}d", *self.constants) + text

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        """Unpack.

        Raises
        ------
        ProtocolError
            If the length, version or a field is not what it must be.
        """
        if len(data) < _REQUEST.size:
            raise ProtocolError(f"request: {len(data)} bytes, expected at least {_REQUEST.size}")
        version, session, sequence, round, key, ack, memory, settlement, count, length = (
            _REQUEST.unpack_from(data)
        )
        if version != _VERSION:
            raise ProtocolError(
                f"request: protocol version {version}, this client speaks {_VERSION}; "
                "install the same fedstrategies on both sides"
            )
        if len(data) != _REQUEST.size + 8 * count + length:
            raise ProtocolError(f"request: {len(data)} bytes do not fit its own counts")
        try:
            command = MemoryCommand(memory)
            spec = data[_REQUEST.size + 8 * count :].decode()
        except ValueError as error:
            raise ProtocolError(f"request: {error}") from None
        return cls(
            session=session,
            sequence=sequence,
            round=round,
            key=key,
            ack=Tag.from_bytes(ack),
            memory=command,
            settlement=bool(settlement),
            constants=struct.unpack_from(f"<{count}d", data, _REQUEST.size),
            spec=spec,
        )


class Status(IntEnum):
    """A client's answer to a request."""

    UPLOAD = 0
    STALE = 1  # an older or redelivered request: nothing done
    LOST = 2  # the acknowledged upload is unknown here: the memory must be restored


@dataclass(frozen=True, kw_only=True)
class Response:
    """Control fields of a train reply.

    Attributes
    ----------
    status : Status
        Whether an upload follows.
    session, sequence, round : int
        Those of the request that is answered.
    base : int
        Digest of the tag whose memory the upload was computed from.
    """

    status: Status
    session: int
    sequence: int
    round: int
    base: int

    SIZE = _RESPONSE.size

    def to_bytes(self) -> bytes:
        """Pack into `SIZE` bytes."""
        return _RESPONSE.pack(
            _VERSION, self.status, self.session, self.sequence, self.round, self.base
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Response:
        """Unpack; `ProtocolError` if length, version or status are wrong."""
        if len(data) != _RESPONSE.size:
            raise ProtocolError(f"reply: {len(data)} control bytes, expected {_RESPONSE.size}")
        version, status, session, sequence, round, base = _RESPONSE.unpack(data)
        if version != _VERSION:
            raise ProtocolError(f"reply: protocol version {version}, expected {_VERSION}")
        try:
            known = Status(status)
        except ValueError:
            raise ProtocolError(f"reply: unknown status {status}") from None
        return cls(status=known, session=session, sequence=sequence, round=round, base=base)


@dataclass(frozen=True, kw_only=True)
class Pending:
    """The one upload whose fate a client does not know yet.

    The bytes are kept, not the memory they lead to: k values in place of d, and a commit
    applies exactly what the server decoded.
    """

    tag: Tag
    base: int
    round: int
    blob: bytes
    loss: float
    constants: tuple[float, ...]
    spec: str


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
        head = _RECEIPTS.pack(_VERSION, self.committed.to_bytes(), *self.seen)
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
            If another version of the protocol wrote it.
        """
        version, committed, session, sequence = _RECEIPTS.unpack_from(data)
        if version != _VERSION:
            raise ProtocolError(f"client state of protocol version {version}, not {_VERSION}")
        seen = (session, sequence)
        if len(data) == _RECEIPTS.size:
            return cls(committed=Tag.from_bytes(committed), seen=seen)
        tag, base, round, loss, count, length = _PENDING.unpack_from(data, _RECEIPTS.size)
        start = _RECEIPTS.size + _PENDING.size
        end = start + 8 * count
        pending = Pending(
            tag=Tag.from_bytes(tag),
            base=base,
            round=round,
            loss=loss,
            constants=struct.unpack_from(f"<{count}d", data, start),
            spec=data[end : end + length].decode(),
            blob=data[end + length :],
        )
        return cls(committed=Tag.from_bytes(committed), seen=seen, pending=pending)

    def decide(self, request: Request) -> Decision:
        """The client rule; the order of the tests matters."""
        if self.pending is not None and self.pending.tag.attempt == request.attempt:
            return Decision.RESEND
        if request.attempt <= self.seen:
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

    def after_upload(self, request: Request, blob: bytes, loss: float) -> Receipts:
        """Committed up to ``request.ack``; ``blob`` is pending."""
        tag = Tag(request.session, request.sequence, zlib.crc32(blob))
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
