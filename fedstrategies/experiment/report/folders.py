"""The folders of runs, read as what they are: files that anybody may have written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedstrategies.experiment.history import HistoryRecord, read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import SUMMARY, Summary
from fedstrategies.experiment.views import read_mapping, read_versions

__all__ = ["RunFolder", "find_runs"]

_HISTORY = "history.jsonl"
_TABLES = ("last", "theory", "smoothness", "local_solve", "incidents", "privacy")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFolder:
    """What a run left behind.

    Attributes
    ----------
    name : str
        The folder, as it was asked for.
    options : mapping
        Of config.toml, as text; unset ones are empty.
    versions : mapping
        Package -> version, of config.toml.
    summary : Summary or None
        None: the run has not ended, or was cut off.
    records : sequence of dict
        The history.
    torn : bool
        Whether the history's last line was cut off.
    """

    name: str
    options: Mapping[str, str]
    versions: Mapping[str, str]
    summary: Summary | None
    records: Sequence[HistoryRecord]
    torn: bool

    @property
    def algorithm(self) -> str:
        """Its name on the command line; empty if nothing says it."""
        return self.options.get("algorithm") or (self.summary.algorithm if self.summary else "")

    @property
    def seed(self) -> str:
        """As config.toml has it; empty if it has none."""
        return self.options.get("seed", "")

    @property
    def status(self) -> str:
        """As in `Summary`, or ``not ended``."""
        return "not ended" if self.summary is None else self.summary.status

    @property
    def last(self) -> HistoryRecord:
        """The last record; empty if there is none."""
        return self.records[-1] if self.records else {}


def find_runs(outs: Sequence[Path]) -> tuple[RunFolder, ...]:
    """The runs in folders of runs, of comparisons and of sweeps, each once.

    A folder that holds no history itself stands for the folders in it that do, by name, and for
    those in its ``cells``.

    Raises
    ------
    ConfigError
        If a folder is not there or holds no run, or a file in it cannot be read.
    """
    found: dict[Path, Path] = {}
    for out in outs:
        if not out.is_dir():
            raise ConfigError(f"report: {out} is not a folder")
        for folder in _runs_in(out):
            found.setdefault(folder.resolve(), folder)
    return tuple(_read(folder) for folder in found.values())


def _runs_in(out: Path) -> list[Path]:
    try:
        if (out / _HISTORY).exists():
            return [out]
        inside = [path for place in (out, out / "cells") for path in sorted(place.glob("*"))]
        runs = [path for path in inside if (path / _HISTORY).exists()]
    except OSError as error:
        raise ConfigError(f"report: {out} cannot be read ({error.strerror})") from None
    if not runs:
        raise ConfigError(f"report: {out} holds no run (no {_HISTORY} in it, nor one folder below)")
    return runs


def _read(folder: Path) -> RunFolder:
    config = folder / "config.toml"
    try:
        records = read_history(folder / _HISTORY)
        summary = _summary(folder) if (folder / SUMMARY).exists() else None
        options = read_mapping(config) if config.exists() else {}
        versions = read_versions(config) if config.exists() else {}
        with (folder / _HISTORY).open("rb") as file:
            lines = sum(1 for _ in file)
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"report: {text}") from None
    except OSError as error:
        raise ConfigError(f"report: {folder} cannot be read ({error.strerror})") from None
    return RunFolder(
        name=str(folder),
        options={key: _text(value) for key, value in options.items()},
        versions=versions,
        summary=summary,
        records=records,
        torn=len(records) < lines,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _summary(folder: Path) -> Summary:
    """The summary, its values of the types that it should have.

    Raises
    ------
    ValueError
        If they are not.
    """
    summary = Summary.read(folder)
    wrong = ValueError(f"{folder / SUMMARY}: not the summary of a run")
    for entry in fields(Summary):
        value = getattr(summary, entry.name)
        if entry.name in _TABLES:
            good = _is_table(value)
        elif entry.name == "reached":
            good = isinstance(value, dict) and all(map(_is_table, value.values()))
        elif entry.name in ("stepsize", "fstar", "seconds", "peak_memory_bytes"):
            good = value is None or _is_number(value)
        elif entry.name in ("clients", "dimension"):
            good = _is_number(value)
        else:
            good = isinstance(value, str) or (entry.name == "error" and value is None)
        if not good:
            raise wrong
    return summary


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, str) or _is_number(entry) for entry in value.values()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
