"""Markdown tables."""

from __future__ import annotations

__all__ = ["row"]


def row(*cells: object) -> str:
    """One row."""
    return "| " + " | ".join(map(str, cells)) + " |"
