"""Where an algorithm must come once the faults have stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fedstrategies.engines import CohortGrid
from fedstrategies.flower import BaseStrategy, RoundRecord, client_app
from fedstrategies.sppm.theory import Theory

if TYPE_CHECKING:
    from tests.soak.faults_case import Case

_CHUNK = 100


class Goal(Protocol):
    """What is measured, and what it must not exceed."""

    limit: float

    def reach(
        self, strategy: BaseStrategy, grid: CohortGrid, case: Case, share: float
    ) -> tuple[float, int]:
        """Go on without faults; what was reached, and the rounds it took.

        ``share`` is the part of the usual rounds that means are taken over.
        """


def undisturbed(case: Case) -> tuple[BaseStrategy, CohortGrid]:
    """The same algorithm that never met a fault."""
    kind = case.problem.kind
    grid = CohortGrid(
        client_app(lambda context: case.problem.client(context, kind)),
        num_clients=case.problem.clients,
    )
    strategy = case.strategy()
    strategy.fraction_evaluate = 0.0
    strategy.set_up(case.problem.start, grid)
    return strategy, grid


def _approach(
    strategy: BaseStrategy, grid: CohortGrid, distance: Callable[[], float], limit: float, most: int
) -> tuple[float, int]:
    first = strategy.round
    while (found := distance()) > limit and strategy.round - first < most:
        strategy.start(grid, strategy.arrays, num_rounds=_CHUNK)
    return found, strategy.round - first


@dataclass(frozen=True, kw_only=True)
class Minimiser:
    """``||grad F(x)||/mu``, which is no smaller than the distance to the minimiser of F.

    Attributes
    ----------
    slope : callable
        grad F of the model, shape (d,).
    mu : float
        Strong convexity of F.
    """

    slope: Callable[[Tensor], Tensor]
    mu: float
    limit: float = 1e-8
    most: int = 20_000

    def reach(
        self, strategy: BaseStrategy, grid: CohortGrid, case: Case, share: float
    ) -> tuple[float, int]:
        """See `Goal.reach`."""

        def distance() -> float:
            return float(self.slope(strategy.x).norm()) / self.mu

        return _approach(strategy, grid, distance, self.limit, self.most)


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Distance to where the same algorithm comes without faults, which need not be a minimiser.

    Attributes
    ----------
    rounds : int
        After which it stands still.
    """

    rounds: int = 2000
    limit: float = 1e-8
    most: int = 20_000

    def reach(
        self, strategy: BaseStrategy, grid: CohortGrid, case: Case, share: float
    ) -> tuple[float, int]:
        """See `Goal.reach`."""
        clean, other = undisturbed(case)
        clean.start(other, clean.arrays, num_rounds=self.rounds)

        def distance() -> float:
            return float((strategy.x - clean.x).norm())

        return _approach(strategy, grid, distance, self.limit, self.most)


@dataclass(frozen=True, kw_only=True)
class SameBits:
    """Coordinates that differ from those of a run without faults after as many rounds."""

    limit: float = 0.0

    def reach(
        self, strategy: BaseStrategy, grid: CohortGrid, case: Case, share: float
    ) -> tuple[float, int]:
        """See `Goal.reach`."""
        clean, other = undisturbed(case)
        clean.start(other, clean.arrays, num_rounds=strategy.round)
        return float((strategy.x != clean.x).sum()), 0


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """The mean of ``||x_t - x*||^2`` over outer steps, divided by the bound of the theory.

    Attributes
    ----------
    minimiser : Tensor
        x*.
    theory : Theory
        Of the sampling.
    gamma : float
        Step of the prox.
    rounds : int
        Over which the mean is taken, after as many in which the start is forgotten.
    """

    minimiser: Tensor
    theory: Theory
    gamma: float
    rounds: int = 6000
    limit: float = 1.0

    def reach(
        self, strategy: BaseStrategy, grid: CohortGrid, case: Case, share: float
    ) -> tuple[float, int]:
        """See `Goal.reach`."""
        rounds = round(share * self.rounds)
        strategy.start(grid, strategy.arrays, num_rounds=rounds)
        seen = _Points()
        strategy.start(grid, strategy.arrays, num_rounds=rounds, callbacks=[seen])
        squares = [(x - self.minimiser).square().sum() for x in seen.ends]
        bound = self.theory.neighbourhood(self.gamma)
        return float(torch.stack(squares).mean()) / bound, 2 * rounds


@dataclass(frozen=True, kw_only=True)
class SameLoss:
    """Relative difference of f from that of a run without faults, each a mean over rounds.

    Attributes
    ----------
    rounds : int
        Over which the mean is taken, after as many to get there.
    """

    rounds: int = 300
    limit: float = 0.05

    def reach(
        self, strategy: BaseStrategy, grid: CohortGrid, case: Case, share: float
    ) -> tuple[float, int]:
        """See `Goal.reach`."""
        clean, other = undisturbed(case)
        rounds, found = round(share * self.rounds), []
        for one, nodes in ((strategy, grid), (clean, other)):
            one.start(nodes, one.arrays, num_rounds=rounds)
            seen = _Points()
            one.start(nodes, one.arrays, num_rounds=rounds, callbacks=[seen])
            losses = [case.problem.loss(x) for x in seen.all[:: max(1, rounds // 100)]]
            found.append(sum(losses) / len(losses))
        return abs(found[0] / found[1] - 1), 2 * rounds


class _Points:
    """The model after every round, and after every cohort."""

    def __init__(self) -> None:
        self.all: list[Tensor] = []
        self.ends: list[Tensor] = []
        self._done = -1

    def on_start(self, x: Tensor) -> None:
        """Nothing."""

    def on_round(self, record: RoundRecord) -> None:
        """Keep it."""
        self.all.append(record.x)
        if record.outer_round != self._done:
            self.ends.append(record.x)
            self._done = record.outer_round

    def on_end(self) -> None:
        """Nothing."""
