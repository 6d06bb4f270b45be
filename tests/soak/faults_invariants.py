"""What must hold after every attempt at a round, whatever happened to the messages.

Each looks at an attempt before it is committed, and gives what measures it afterwards; see
`faults_watch.Invariant`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedstrategies.fedp3 import FedP3
from fedstrategies.flower import BaseStrategy, Delivery
from fedstrategies.flower.attempt import Attempt
from fedstrategies.flower.records import load_replica
from fedstrategies.objectives import BatchedObjective
from fedstrategies.scafflix import Scafflix
from tests.flower.effective import effective_memories
from tests.flower.faults import FaultyGrid
from tests.soak.faults_watch import Afterwards, Broken


class SharedMean:
    """EF-BV: h is the mean of the effective memories, and the server's copy has their bits."""

    name, limit = "h - mean h_i", 1e-12

    def __init__(self, grid: FaultyGrid) -> None:
        self.grid = grid

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""

        def after() -> float:
            memories = effective_memories(self.grid, strategy)
            if not memories:
                return 0.0
            _same_bits(strategy, memories)
            found = (strategy.h - memories["h"].mean(dim=0)).abs().max()  # type: ignore[attr-defined]
            return 0.0 if bool(found.isnan()) else float(found)

        return after


class ControlVariates:
    """Scafflix: sum alpha_i h_i = 0 over the effective memories, of which the server has a copy."""

    name, limit = "sum alpha_i h_i", 1e-11

    def __init__(self, grid: FaultyGrid) -> None:
        self.grid = grid

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""
        assert isinstance(strategy, Scafflix)

        def after() -> float:
            memories = effective_memories(self.grid, strategy)
            _same_bits(strategy, memories)
            alpha = torch.tensor(strategy.alpha, dtype=torch.float64).unsqueeze(1)
            found = (alpha * memories["h"]).sum(dim=0).abs().max()
            return 0.0 if bool(found.isnan()) else float(found)

        return after


def _same_bits(strategy: BaseStrategy, memories: dict[str, Tensor]) -> None:
    for name, value in (strategy.memory or {}).items():
        if not torch.equal(value, memories[name]):
            rows = (value != memories[name]).any(dim=1).nonzero().flatten().tolist()
            raise Broken(f"the server's copy of {name} differs from what clients {rows} hold")


class HonestUploads:
    """Every upload in use is what a client without faults computes at this model in this round.

    But for the rounding errors that a disturbed client makes, see `faults.JITTER`.
    """

    name, limit = "used - honest upload", 1e-9

    def __init__(self, grid: FaultyGrid, objective: BatchedObjective) -> None:
        self.grid, self.objective = grid, objective

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""
        memory = strategy.memory
        if memory is None:
            memory = effective_memories(self.grid, strategy)
        worst = 0.0
        for delivery in deliveries:
            assignment, members = delivery.assignment, delivery.partition_ids
            used = torch.isin(assignment.partition_ids, members)
            honest, _ = assignment.rule.step(
                memory,
                attempt.sent(assignment),
                self.objective,
                attempt.keys(assignment)[used],
                clients=members,
            )
            difference = (honest.dense() - delivery.payload.dense()).abs().max()
            worst = max(worst, float(difference.nan_to_num(nan=torch.inf)))
        return lambda: worst


class SameModelEverywhere:
    """Compressed downlink: a version that a client holds is the server's, bit for bit."""

    name, limit = "w of a client", 0.0

    def __init__(self, grid: FaultyGrid) -> None:
        self.grid = grid

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""
        assert attempt.edition is not None
        versions = attempt.edition.versions()
        worst = 0.0
        for context in self.grid.contexts.values():
            held = load_replica(context.state)
            known = held is not None and held.session == strategy.ledger.session
            if held is not None and known and held.number in versions:
                worst = max(worst, float((held.w - versions[held.number]).abs().max()))
        return lambda: worst


class AbortedCohorts:
    """SPPM-AS: x moves when a cohort is done, and with a cohort that is given up it does not."""

    name, limit = "x of an aborted cohort", 0.0

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""
        x, done, redrawn = strategy.x, strategy.outer_round, _redraws(strategy)

        def after() -> float:
            if strategy.outer_round > done and _redraws(strategy) == redrawn:
                return 0.0
            return float((strategy.x - x).abs().max())

        return after


def _redraws(strategy: BaseStrategy) -> int:
    return strategy.incidents["biased_redraws"]


class UntouchedLayers:
    """FedP3: layers that no used upload brought keep their bits."""

    name, limit = "layers nobody sent", 0.0

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""
        assert isinstance(strategy, FedP3)
        x, assigned = strategy.x, strategy.assigned(attempt.round)
        members = [int(i) for delivery in deliveries for i in delivery.partition_ids]
        untouched = ~strategy.groups.expand(assigned[members].any(dim=0))

        def after() -> float:
            if not bool(untouched.any()):
                return 0.0
            return float((strategy.x - x)[untouched].abs().max())

        return after


class Spending:
    """No epsilon ever falls, and the server's account covers every release that was made.

    Epsilon is an increasing function of the number of releases, as each client has one mechanism
    here. What the server knows and what it holds possible must be at least what the nodes have
    really released (`FaultyNodes.released`). A server that goes on from an older checkpoint knows
    what that says, and is compared from when the client was heard again.
    """

    name, limit = "releases not covered", 0.0

    def __init__(self, grid: FaultyGrid) -> None:
        self.grid = grid
        self._told: dict[int, int] = {}
        self._behind: set[int] = set()

    def resumed(self) -> None:
        """The server is another one: what it knows may be old."""
        self._told.clear()
        self._behind = set(range(len(self.grid.partitions)))

    def before(
        self, strategy: BaseStrategy, attempt: Attempt, deliveries: Sequence[Delivery]
    ) -> Afterwards:
        """See `Invariant.before`."""
        used = {int(i) for delivery in deliveries for i in delivery.partition_ids}
        unit = _releases_a_unit(attempt)

        def after() -> float:
            worst = 0
            for partition, node in enumerate(self.grid.contexts):
                told = strategy.accounts.ledger(partition).releases
                worst = max(worst, self._told.get(partition, 0) - told)
                self._told[partition] = told
                if partition in used & self._behind:
                    self._behind.remove(partition)
                    self.grid.forgive(node)
                if partition not in self._behind:
                    owed = strategy.accounts.unanswered(partition) * unit
                    worst = max(worst, self.grid.released(node) - told - owed)
            return float(worst)

        return after


def _releases_a_unit(attempt: Attempt) -> int:
    """Releases that go with one unit of work, see `fedstrategies.flower.accounts.work_of`."""
    return int(getattr(attempt.plan[0].rule, "steps", 1))
