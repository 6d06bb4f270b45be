"""How the pages write tables and spreads over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedstrategies.experiment import Summary

__all__ = ["is_done", "spread", "table"]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest of percentages."""
    mean = sum(values) / len(values)
    return f"{mean:.1f} ({min(values):.1f} to {max(values):.1f}) %"


def is_done(folder: Path) -> bool:
    """Whether a run ended well."""
    return (folder / "summary.json").exists() and Summary.read(folder).status == "done"
