"""The page of results, rewritten from the runs that are there."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(runs: Path, page: Path) -> None:
    """Placeholder."""
