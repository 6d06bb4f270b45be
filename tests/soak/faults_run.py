"""One algorithm through a schedule of faults, and what becomes of it once they stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context

from fedstrategies.engines import CohortGrid
from fedstrategies.flower import AllClientsFailed, BaseStrategy, client_app
from fedstrategies.flower.records import load_receipts
from fedstrategies.flower.resumption import resume, snapshot
from tests.flower.damage import Disturbance, unsteady
from tests.flower.faults import Faults, FaultyGrid, ServerKilled
from tests.soak.faults_case import Case
from tests.soak.faults_invariants import Spending
from tests.soak.faults_watch import Watch

_MEAN_LENGTH = 25
_SETTLING = 12
_REDONE = 0.15


def schedule(case: Case, *, rate: float, kills: float) -> Faults:
    """Every fault with about the same probability, and lost replies with twice that.

    A round that is redone until nothing is missing has a sixth of it, and no clients whose bits
    are not the same twice.
    """
    names = set(vars(Faults())) - {"kill_server"}
    if case.deterministic:
        names -= {"recompute", "overlap"}
        rate *= _REDONE
    chances = dict.fromkeys(names, rate) | {"lose_reply": 2 * rate, "kill_server": kills}
    return Faults(**chances)


@dataclass(frozen=True, kw_only=True)
class Survival:
    """What a run through faults gave.

    Attributes
    ----------
    rounds, attempts : int
        Communication rounds completed in the end, and attempts at all of them, also those of
        servers that were killed.
    faults : dict of str to int
        How often each happened.
    violations : dict of str to float
        The largest violation of each invariant.
    distance, limit : float
        Once the faults had stopped: what the case measures, and what it must be below.
    calm : int
        Rounds without faults that this took.
    seconds : float
        Wall time of all.
    """

    rounds: int
    attempts: int
    faults: dict[str, int]
    violations: dict[str, float]
    distance: float
    limit: float
    calm: int
    seconds: float


class Server:
    """The server's process, which is killed and goes on from checkpoints.

    Parameters
    ----------
    case : Case
        Whose strategy it runs.
    grid : FaultyGrid
        Its nodes.
    watch : Watch
        Looks at every attempt.
    every : int
        Rounds between two checkpoints.
    """

    def __init__(self, case: Case, grid: FaultyGrid, watch: Watch, every: int) -> None:
        self.case, self.grid, self.watch, self.every = case, grid, watch, every
        self.resumed_twice = 0
        self._kept: dict[str, Any] | None = None
        self._resumed_from: dict[str, Any] | None = None
        self.strategy = self._new()

    def _new(self) -> BaseStrategy:
        strategy = self.case.strategy()
        strategy.fraction_evaluate = 0.0
        strategy.set_up(self.case.problem.start, self.grid)
        self.watch.attach(strategy, self._checkpoint)
        return strategy

    def _checkpoint(self) -> None:
        if self._kept is None or self.strategy.round >= self._kept["round"] + self.every:
            self._kept = deepcopy(snapshot(self.strategy))

    def killed(self, *, twice: bool) -> None:
        """A new process goes on from the newest checkpoint, or from the one before a second time.

        ``twice``: if this server has itself gone on from a checkpoint, from that one again: its
        clients have seen rounds of which the new server knows nothing.
        """
        if twice and self._resumed_from is not None:
            self._kept = self._resumed_from
            self.resumed_twice += 1
        self.strategy = self._new()
        if self._kept is None:
            return
        self._resumed_from = self._kept
        resume(self.strategy, deepcopy(self._kept))
        for one in self.watch.invariants:
            if isinstance(one, Spending):
                one.resumed()


def survive(
    case: Case,
    *,
    rounds: int,
    faults: Faults,
    checkpoint_every: int = 20,
    seed: int = 0,
    share: float = 1.0,
    tell: Callable[[int], None] = lambda round: None,
) -> Survival:
    """The case through ``rounds`` rounds of faults, and then to where it should come without.

    Parameters
    ----------
    case : Case
        Algorithm and problem.
    rounds : int
        Rounds completed under faults; those of servers that were killed are not among them.
    faults : Faults
        Their probabilities.
    checkpoint_every : int
        Rounds between two checkpoints.
    seed : int
        Of the schedule.
    share : float
        Of the rounds over which goals take means.
    tell : callable
        Is told the round now and then.

    Raises
    ------
    Broken
        If an invariant does not hold after some attempt.
    """
    began = time.perf_counter()
    disturbance = Disturbance(seed)
    grid = _grid(case, faults, seed, disturbance)
    watch = Watch(case.invariants(grid))
    server = Server(case, grid, watch, checkpoint_every)
    draw = np.random.default_rng((seed, 1))
    tally = {"goes_on_with_pending": 0, "all_failed": 0}
    arrays = case.problem.start
    while server.strategy.round < rounds:
        strategy = server.strategy
        length = min(int(draw.geometric(1 / _MEAN_LENGTH)), rounds - strategy.round)
        try:
            strategy.start(grid, arrays, num_rounds=length)
        except ServerKilled:
            server.killed(twice=grid.happened["kill_server"] % 2 == 0)
        except AllClientsFailed:
            tally["all_failed"] += 1
        else:
            tally["goes_on_with_pending"] += _anything_pending(grid)
        arrays = server.strategy.arrays
        tell(server.strategy.round)
    strategy = server.strategy
    happened = {**grid.happened, "resume_twice": server.resumed_twice, **tally}
    reached = strategy.round
    grid.faults = Faults()
    strategy.start(grid, strategy.arrays, num_rounds=_SETTLING)
    watch.detach(strategy)
    calm = _calm_grid(case, grid)
    distance, taken = case.goal.reach(strategy, calm, case, share)
    return Survival(
        rounds=reached,
        attempts=watch.attempts,
        faults=happened,
        violations=watch.worst,
        distance=distance,
        limit=case.goal.limit,
        calm=_SETTLING + taken,
        seconds=time.perf_counter() - began,
    )


def _grid(case: Case, faults: Faults, seed: int, disturbance: Disturbance) -> FaultyGrid:
    kind = unsteady(case.problem.kind, disturbance)

    def client(context: Context) -> Any:
        return case.problem.client(context, kind)

    return FaultyGrid(
        client_app(client),
        num_clients=case.problem.clients,
        faults=faults,
        seed=seed,
        disturbance=disturbance,
    )


def _calm_grid(case: Case, grid: FaultyGrid) -> CohortGrid:
    """The nodes as the faults have left them, on a grid of sound clients."""
    calm = CohortGrid(
        client_app(lambda context: case.problem.client(context, case.problem.kind)),
        num_clients=case.problem.clients,
    )
    calm.partitions = grid.partitions
    calm.contexts = grid.contexts
    return calm


def _anything_pending(grid: FaultyGrid) -> bool:
    return any(
        load_receipts(context.state).pending is not None for context in grid.contexts.values()
    )
