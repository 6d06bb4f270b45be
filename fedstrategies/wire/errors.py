"""What is raised when bytes are not a valid message, or a message cannot become bytes."""

from __future__ import annotations

__all__ = ["WireError"]


class WireError(ValueError):
    """A blob that does not decode, or a payload that has no encoding.

    Parameters
    ----------
    name : str
        Which message it was (``"uplink of client 3"``).
    offset : int or None
        Byte of the blob at which it went wrong; None when there is no blob yet.
    problem : str
        What was found and what was expected.
    """

    def __init__(self, name: str, offset: int | None, problem: str) -> None:
        # All three stay in ``args``: exceptions travel between worker processes by them.
        super().__init__(name, offset, problem)
        self.name = name
        self.offset = offset
        self.problem = problem

    def __str__(self) -> str:
        where = self.name if self.offset is None else f"{self.name}, byte {self.offset}"
        return f"{where}: {self.problem}"
