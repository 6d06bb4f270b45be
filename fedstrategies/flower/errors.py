"""What can go wrong in a run, as the user sees it."""

from __future__ import annotations

from flwr.app import Message

__all__ = ["AllClientsFailed", "Diverged", "ProtocolError", "reason_of"]

_LONGEST_REASON = 20_000


class AllClientsFailed(RuntimeError):
    """No client of a round returned anything usable; carries the first client's traceback."""


class Diverged(RuntimeError):
    """The model left the finite numbers (or the recorder's bound).

    Attributes
    ----------
    round : int
        Communication round t after which it was noticed.
    reason : str
        What was not finite, or too large; part of the message.
    """

    def __init__(self, round: int, reason: str) -> None:
        super().__init__(f"diverged in round {round}: {reason}; try a smaller step size")
        self.round = round


def reason_of(reply: Message) -> str:
    """Why a reply is an error: the end of what its node says, never empty.

    A node may say anything: at most 20,000 characters of it are kept. What was raised stands at
    the end of a traceback.
    """
    return (reply.error.reason or "").strip()[-_LONGEST_REASON:] or "no reason given"


class ProtocolError(ValueError):
    """A control field that is not what the protocol allows; says which and why."""
