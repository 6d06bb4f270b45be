"""One client's account of privacy: what it is charged for, and what travels of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from fedstrategies.flower.errors import ProtocolError
from fedstrategies.flower.rules import ClientRule
from fedstrategies.privacy import Ledger as PrivacyLedger

__all__ = ["MOST_OWED", "Account", "few_mechanisms", "read_ledger", "work_of"]

MOST_OWED = 2**32
"""Work that an account can tell of as unanswered."""

_OWED = struct.Struct("<Q")
_MOST_MECHANISMS = 16


def work_of(rule: ClientRule) -> int:
    """Releases of one request, up to a factor that is the client's own and stays the same.

    ``rule.local_steps``, of which a rule with a number for each client has one here, or 1 for a
    rule that has no such attribute; and ``rule.further_releases``, if it has that.
    """
    steps: int | tuple[int, ...] = getattr(rule, "local_steps", 1)
    further: int = getattr(rule, "further_releases", 0)
    return further + (max(steps) if isinstance(steps, tuple) else steps)


def read_ledger(data: object) -> PrivacyLedger:
    """A ledger that came over the network.

    Raises
    ------
    ValueError
        If it is no ledger, or one of more mechanisms than any honest client has (16).
    """
    if not isinstance(data, bytes):
        raise ProtocolError(f"ledger of privacy: expected bytes, got {type(data).__name__}")
    return few_mechanisms(PrivacyLedger.from_bytes(data))


def few_mechanisms(ledger: PrivacyLedger) -> PrivacyLedger:
    """The ledger, if epsilon follows from it quickly."""
    if len(ledger.segments) > _MOST_MECHANISMS:
        raise ProtocolError(
            f"ledger of privacy: {len(ledger.segments)} mechanisms so far, at most "
            f"{_MOST_MECHANISMS} are taken"
        )
    return ledger


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a request tells a client about its own spending.

    Attributes
    ----------
    ledger : fedstrategies.privacy.Ledger
        The server's copy.
    unanswered : int
        Work (`work_of`) of the requests for which no reply brought a ledger: what a node that
        lost its record may have released without the server's knowledge.
    """

    ledger: PrivacyLedger = field(default_factory=PrivacyLedger)
    unanswered: int = 0

    def to_bytes(self) -> bytes:
        """Pack: 8 bytes and the ledger; nothing if there is nothing to tell."""
        if self == Account():
            return b""
        return _OWED.pack(self.unanswered) + self.ledger.to_bytes()

    @classmethod
    def from_bytes(cls, data: object) -> Account:
        """Unpack.

        Raises
        ------
        ValueError
            If the bytes are no account.
        """
        if data == b"":
            return cls()
        if not isinstance(data, bytes) or len(data) < _OWED.size:
            raise ProtocolError("account of privacy: expected at least 8 bytes")
        (unanswered,) = _OWED.unpack_from(data)
        if unanswered > MOST_OWED:
            raise ProtocolError(f"account of privacy: {unanswered} unanswered requests")
        return cls(ledger=PrivacyLedger.from_bytes(data[_OWED.size :]), unanswered=unanswered)
