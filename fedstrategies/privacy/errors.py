"""The one error of this room for what cannot be done."""

from __future__ import annotations

__all__ = ["PrivacyError"]


class PrivacyError(ValueError):
    """A privacy setting cannot be had as asked; the message is one line saying what and why."""
