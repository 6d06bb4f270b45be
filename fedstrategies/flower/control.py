"""The control fields that travel beside the blobs: fixed layouts, validated on arrival."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from fedstrategies.flower.errors import ProtocolError

__all__ = [
    "ORIGIN",
    "MemoryCommand",
    "Request",
    "Response",
    "Status",
    "Tag",
    "pack_constants",
    "unpack_constants",
]

VERSION = 1
"""Version of the protocol; client and server must agree."""

_TAG = struct.Struct("<QQI")
_REQUEST = struct.Struct("<BQQIq20sBBBB")
_RESPONSE = struct.Struct("<BBQQII")


def pack_constants(constants: tuple[float, ...]) -> bytes:
    """Constants as they travel with an evaluate message: 8 bytes each."""
    return struct.pack(f"<{len(constants)}d", *constants)


def unpack_constants(data: bytes) -> tuple[float, ...]:
    """What `pack_constants` packed; `ProtocolError` if the length is no multiple of 8."""
    if len(data) % 8:
        raise ProtocolError(f"constants: {len(data)} bytes are no whole number of them")
    return struct.unpack(f"<{len(data) // 8}d", data)


@dataclass(frozen=True)
class Tag:
    """Identity of one upload: attempt id and checksum of its frame (20 bytes on the wire)."""

    session: int
    sequence: int
    checksum: int

    @classmethod
    def of(cls, attempt: tuple[int, int], blob: bytes) -> Tag:
        """The tag of an upload's frame, whose last four bytes are its own CRC-32.

        The CRC-32 of a whole frame would not do: over anything that ends in its CRC-32 it is one
        and the same number, 0x2144df1c.
        """
        return cls(*attempt, int.from_bytes(blob[-4:], "little"))

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

    @staticmethod
    def size(constants: tuple[float, ...], spec: str) -> int:
        """Bytes of a request with these settings."""
        return _REQUEST.size + 8 * len(constants) + len(spec.encode())

    def to_bytes(self) -> bytes:
        """Pack into `size` bytes."""
        text = self.spec.encode()
        if len(text) > 255 or len(self.constants) > 255:
            raise ProtocolError("request: more than 255 bytes of settings or 255 constants")
        head = _REQUEST.pack(
            VERSION,
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
        return head + pack_constants(self.constants) + text

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
        if version != VERSION:
            raise ProtocolError(
                f"request: protocol version {version}, this client speaks {VERSION}; "
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
    SPENT = 3  # the privacy budget allows no release: this client trains no more
    BEHIND = 4  # the model cannot be rebuilt from the one held here: it must be sent whole


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

    @property
    def attempt(self) -> tuple[int, int]:
        """(session, sequence)."""
        return self.session, self.sequence

    def to_bytes(self) -> bytes:
        """Pack into `SIZE` bytes."""
        return _RESPONSE.pack(
            VERSION, self.status, self.session, self.sequence, self.round, self.base
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Response:
        """Unpack; `ProtocolError` if length, version or status are wrong."""
        if len(data) != _RESPONSE.size:
            raise ProtocolError(f"reply: {len(data)} control bytes, expected {_RESPONSE.size}")
        version, status, session, sequence, round, base = _RESPONSE.unpack(data)
        if version != VERSION:
            raise ProtocolError(f"reply: protocol version {version}, expected {VERSION}")
        try:
            known = Status(status)
        except ValueError:
            raise ProtocolError(f"reply: unknown status {status}") from None
        return cls(status=known, session=session, sequence=sequence, round=round, base=base)
