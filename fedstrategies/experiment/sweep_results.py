"""What a sweep found: a cell for each run, the best of them, as JSON and as a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedstrategies.durable import write_durably
from fedstrategies.experiment.options import Scalar
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.writing import writing

__all__ = ["Cell", "SweepResults"]

_MEASURED = ("cost", "round", "outer_round", "uplink_bytes", "downlink_bytes")
_LAST = ("loss", "gap", "grad_norm_sq", "accuracy", "accuracy_personal")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes
    ----------
    values : mapping
        Option -> value, as text.
    status : str
        As in `Summary`, or ``refused`` where the run could not begin.
    reached : bool or None
        Whether the target was reached; None if there is none.
    at : mapping
        Cost, rounds and bytes: when the target was reached, or at the end.
    last : mapping
        What was measured last.
    error : str or None
        Why it did not end well.
    """

    values: Mapping[str, str]
    status: str
    reached: bool | None = None
    at: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, str], ended: Summary | str, target: str | None) -> Cell:
        """From a run's summary, or from the reason why there is none."""
        if isinstance(ended, str):
            reached = None if target is None else False
            return cls(values=values, status="refused", reached=reached, error=ended)
        found = ended.reached.get(target) if target is not None else None
        record = ended.last if found is None else found
        return cls(
            values=values,
            status=ended.status,
            reached=None if target is None else found is not None,
            at={key: record[key] for key in _MEASURED if key in record},
            last={key: ended.last[key] for key in _LAST if key in ended.last},
            error=ended.error,
        )

    @property
    def text(self) -> str:
        """``key=value, key=value``."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.reached:
            return "target reached"
        return "target missed" if self.status == "done" and self.reached is False else self.status

    def score(self, target: str | None) -> tuple[float, float] | None:
        """What is compared, the smaller the better: (cost, bytes), or (gap or loss, cost)."""
        if target is not None:
            if not self.reached:
                return None
            return self.at["cost"], self.at["uplink_bytes"] + self.at["downlink_bytes"]
        measured = self.last.get("gap", self.last.get("loss"))
        return None if self.status != "done" or measured is None else (measured, self.at["cost"])


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """All cells so far.

    Attributes
    ----------
    algorithm : str
        What was run.
    grid : mapping
        Option -> its values.
    options : mapping
        Option -> value, for all that is the same in every cell.
    target : str or None
        ``target-gap`` or ``target-accuracy``: cells are compared by the cost to reach it; None:
        by the last gap (or loss).
    cells : tuple of Cell
        In the order of the grid.
    """

    algorithm: str
    grid: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Scalar]
    target: str | None
    cells: tuple[Cell, ...] = ()

    @property
    def measure(self) -> str:
        """What cells are compared by, in words."""
        if self.target is None:
            return "last gap (or loss)"
        return f"cost to {self.target} {self.options[self.target]}"

    @property
    def ok(self) -> bool:
        """Whether some cell ended well."""
        return any(cell.status == "done" for cell in self.cells)

    def ranked(self) -> list[Cell]:
        """The best first; those that cannot be compared last, in their order."""
        scored = [(cell.score(self.target), cell) for cell in self.cells]
        good = [(score, cell) for score, cell in scored if score is not None]
        good.sort(key=lambda pair: pair[0])
        return [cell for _, cell in good] + [cell for score, cell in scored if score is None]

    @property
    def best(self) -> Cell | None:
        """The best cell; None if none can be compared."""
        first = next(iter(self.ranked()), None)
        return first if first is not None and first.score(self.target) is not None else None

    def write(self, out: Path) -> None:
        """``sweep.json``, replaced as a whole.

        Raises
        ------
        WriteError
            If it cannot be written; what was there before stays.
        """
        best = self.best
        content = {
            "algorithm": self.algorithm,
            "grid": {key: list(values) for key, values in self.grid.items()},
            "options": dict(self.options),
            "target": self.target,
            "best": None if best is None else dict(best.values),
            "cells": [_as_json(cell) for cell in self.cells],
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        with writing(out / "sweep.json"):
            out.mkdir(parents=True, exist_ok=True)
            write_durably(out / "sweep.json", text.encode())

    def write_table(self, out: Path) -> None:
        """``sweep.csv``: a row for each cell.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        columns = [*self.grid, "status", "reached", *_MEASURED, *_LAST, "error"]
        path = out / "sweep.csv"
        with writing(path), path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for cell in self.cells:
                state = {"status": cell.status, "reached": cell.reached, "error": cell.error}
                writer.writerow({**cell.values, **state, **cell.at, **cell.last})

    @classmethod
    def read(cls, path: Path) -> SweepResults:
        """What `write` wrote.

        Raises
        ------
        ValueError
            If the file is something else.
        """
        try:
            content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                algorithm=content["algorithm"],
                grid={key: tuple(values) for key, values in content["grid"].items()},
                options=dict(content["options"]),
                target=content["target"],
                cells=tuple(Cell(**cell) for cell in content["cells"]),
            )
        except (OSError, KeyError, TypeError, AttributeError, ValueError):
            raise ValueError(f"{path}: not the results of a sweep") from None


def _as_json(cell: Cell) -> dict[str, Any]:
    found = {
        "values": dict(cell.values),
        "status": cell.status,
        "reached": cell.reached,
        "at": dict(cell.at),
        "last": dict(cell.last),
    }
    return found if cell.error is None else {**found, "error": cell.error}
