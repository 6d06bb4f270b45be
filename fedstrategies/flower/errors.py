"""What can go wrong in a run, as the user sees it."""

from __future__ import annotations

__all__ = ["AllClientsFailed", "Diverged", "ProtocolError"]


class AllClientsFailed(RuntimeError):
    """No client of a round returned anything usable; carries the first client's traceback."""


class Diverged(RuntimeError):
    """The model left the finite numbers (or the recorder's bound).

    Attributes
    ----------
    round : int
        Communication round t after which it was noticed.
    """

    def __init__(self, round: int, reason: str) -> None:
        super().__init__(f"diverged in round {round}: {reason}; try a smaller step size")
        self.round = round


class ProtocolError(ValueError):
    """A control field that is not what the protocol allows; says which and why."""
