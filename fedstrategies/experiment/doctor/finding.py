"""One line of what the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Level", "note", "ok", "problem"]

Level: TypeAlias = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to change.

    Attributes
    ----------
    level : {"ok", "note", "problem"}
        A problem stops the run; a note may make it slow, or other than expected.
    subject : str
        What was looked at, in a word or two.
    text : str
        How it is.
    advice : str
        What to change; empty: nothing.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    """The run works, and this is worth knowing."""
    return Finding("note", subject, text, advice)


def problem(subject: str, text: str, advice: str = "") -> Finding:
    """The run would fail or hang."""
    return Finding("problem", subject, text, advice)
