"""From passages to costs: the best cell of each grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["PRICES", "SEEDS", "Best", "Cells", "cells_of", "cheapest"]

SEEDS = (0, 1, 2)
Row = Mapping[str, Any]
Price = Callable[[float, float], float]
"""(communication rounds, cohorts) -> cost."""

PRICES: Mapping[str, Price] = {
    "flat": lambda rounds, cohorts: rounds,
    "c1 = 0.05": lambda rounds, cohorts: 0.05 * rounds + cohorts,
    "c1 = 0.1": lambda rounds, cohorts: 0.1 * rounds + cohorts,
    "c2 T": lambda rounds, cohorts: cohorts,
}
"""Flat: T K. Hierarchical, c2 = 1: (c1 K + c2) T. The last is a way to price FedAvg alone."""

_SETTINGS = ("solver", "gamma", "inner_rounds", "local_steps", "stepsize")


@dataclass(frozen=True, kw_only=True)
class Best:
    """The cheapest cell of a grid.

    Attributes
    ----------
    cost : float
        Median over the seeds.
    settings : mapping
        What was varied.
    """

    cost: float
    settings: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Cost and the settings that matter."""
        s = self.settings
        if s["method"] == "sppm":
            how = f"K = {s['inner_rounds']}, γ = {s['gamma']}"
        elif s["method"] == "fedprox":
            how = f"H = {s['local_steps']}, γ = {s['gamma']}"
        else:
            factor = s["stepsize"].removeprefix("theory").removeprefix("*") or "1"
            how = f"H = {s['local_steps']}, step {factor}/L_max"
        return f"{self.cost:.3g} ({how})"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """All runs that share settings, by seed."""

    settings: Mapping[str, Any]
    passages: tuple[Mapping[str, list[int]], ...]

    def cost(self, goal: str, how: Price) -> float | None:
        """Median over seeds of the cost to ``measure:accuracy``.

        None if a seed never got there, or has not been run.
        """
        seeds = 1 if self.settings["sampling"] == "full" else len(SEEDS)
        found = [one.get(goal) for one in self.passages]
        if len(found) < seeds:
            return None
        if any(place is None for place in found):
            return None
        return float(median(how(*place) for place in found if place is not None))


def cells_of(rows: Iterable[Row], **where: Any) -> list[Cells]:
    """Rows with these values, grouped over seeds."""
    grouped: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if all(row[key] == value for key, value in where.items()):
            grouped[tuple(row[key] for key in _SETTINGS)].append(row)
    return [
        Cells(settings=group[0], passages=tuple(row["passages"] for row in group))
        for group in grouped.values()
    ]


def cheapest(cells: Iterable[Cells], goal: str, how: Price) -> Best | None:
    """The cell of lowest cost; the first of equals."""
    found: Best | None = None
    for one in cells:
        cost = one.cost(goal, how)
        if cost is not None and (found is None or cost < found.cost):
            found = Best(cost=cost, settings=one.settings)
    return found
