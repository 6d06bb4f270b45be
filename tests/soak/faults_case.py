"""An algorithm on a problem, with what must hold under faults and be reached after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedstrategies.flower import BaseStrategy
from tests.flower.faults import FaultyGrid
from tests.soak.faults_goals import Goal
from tests.soak.faults_problems import Problem
from tests.soak.faults_watch import Invariant


@dataclass(frozen=True, kw_only=True)
class Case:
    """An algorithm on a problem.

    Attributes
    ----------
    problem : Problem
        Its clients.
    strategy : callable
        Builds the strategy, the same each time.
    watched : callable
        The invariants on a grid.
    goal : Goal
        What must be reached without faults.
    deterministic : bool
        Whether clients must give the same bits twice: bits are compared in the end.
    """

    problem: Problem
    strategy: Callable[[], BaseStrategy]
    watched: Callable[[FaultyGrid], list[Invariant]]
    goal: Goal
    deterministic: bool = False

    def invariants(self, grid: FaultyGrid) -> list[Invariant]:
        """What to watch on a grid."""
        return self.watched(grid)
