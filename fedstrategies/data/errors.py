"""The one error of this room."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """The data cannot be used as asked; the message is one line saying what and where."""
