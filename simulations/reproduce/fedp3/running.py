"""Runs one after the other; each has a folder, and one that is done is not repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from fedstrategies.experiment import Summary, config_from_mapping, run

__all__ = ["Runnable", "run_jobs"]


class Runnable(Protocol):
    """A cell of a table."""

    @property
    def name(self) -> str:
        """Its folder."""

    def settings(self, source: Path, out: Path) -> dict[str, object]:
        """The experiment's options."""


def run_jobs(
    chosen: Iterable[Runnable], *, source: Path, runs: Path, report: Callable[[str], None]
) -> None:
    """Run what is not done yet."""
    for job in chosen:
        out = runs / job.name
        if (out / "summary.json").exists() and Summary.read(out).status in ("done", "diverged"):
            continue
        summary = run(config_from_mapping(job.settings(source, out)))
        last, spent = summary.last, summary.privacy.get("epsilon_max")
        told = "" if spent is None else f", epsilon {spent:.4f}"
        report(
            f"{job.name}: {summary.status}, server {last.get('accuracy', 0):.4f}, own "
            f"{last.get('accuracy_personal', 0):.4f}{told}, {summary.seconds:.0f} s"
        )
