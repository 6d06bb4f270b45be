"""One line of JSON for each run of a system, written as soon as it is over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

__all__ = ["WARM_UP", "Head", "Record", "append", "begin", "read"]

WARM_UP = 2
"""Rounds at the beginning of a run that are not timed."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What all runs of a file have in common; its first line.

    Attributes
    ----------
    commit, processor : str
        See `benchmarks.machine`.
    rounds : dict of str to int
        Timed rounds of each model.
    """

    commit: str
    processor: str
    rounds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one system.

    Attributes
    ----------
    model, system : str
        Keys of the models and of the catalogue.
    repeat : int
        From 0.
    status : {"ok", "missing", "failed"}
        Missing: the framework is not installed.
    reason : str
        Why not, in a line.
    seconds : tuple of float
        Of each round, the warm-up included. Empty unless the final weights are right.
    first_round : float
        Seconds from the start of the process to the end of its first round.
    peak : int
        Bytes; see `benchmarks.simulation.clock.peak_resident_bytes`.
    distance : float or None
        Largest difference of a final weight from the baseline's.
    load : float
        Load average when the run began.
    versions : dict of str to str
        Of what it ran with.
    """

    model: str
    system: str
    repeat: int
    status: Literal["ok", "missing", "failed"]
    reason: str = ""
    seconds: tuple[float, ...] = ()
    first_round: float = 0.0
    peak: int = 0
    distance: float | None = None
    load: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def round_seconds(self) -> float:
        """Median over the rounds after the warm-up."""
        return median(self.seconds[WARM_UP:])


def begin(path: Path, head: Head) -> None:
    """Start a new file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(head)) + "\n", encoding="utf-8")


def append(path: Path, record: Record) -> None:
    """Add one run."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read(path: Path) -> tuple[Head, list[Record]]:
    """The head and all runs.

    Raises
    ------
    ValueError
        If the file is none of ours.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        head = Head(**json.loads(lines[0]))
        records = [Record(**json.loads(line)) for line in lines[1:]]
    except (IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file of results ({error}); delete it") from None
    return head, [_frozen(record) for record in records]


def _frozen(record: Record) -> Record:
    return Record(**{**asdict(record), "seconds": tuple(record.seconds)})
