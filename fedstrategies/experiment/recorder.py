"""A callback that measures, writes the history and watches for targets and divergence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.history_file import HistoryFile
from fedstrategies.experiment.problem import Problem
from fedstrategies.experiment.specs import parse_stepsize
from fedstrategies.flower.errors import Diverged
from fedstrategies.objectives import BatchedObjective
from fedstrategies.reduce import sum_over_clients

if TYPE_CHECKING:
    from fedstrategies.flower import RoundRecord

__all__ = ["DIVERGENCE_FACTOR", "Recorder"]

DIVERGENCE_FACTOR = 1e6
"""A run has diverged when its loss exceeds this times ``1 + |f(x^0)|``."""


class Recorder:
    """A callback that measures, writes and watches.

    Parameters
    ----------
    config : ExperimentConfig
        Targets and prices.
    problem : Problem
        R, L and accuracy.
    objectives : BatchedObjective
        All f_i. On the in-process grid this should be the grid's own ``objective``, which
        remembers its last point, so that measuring f(x^t) costs nothing once round t+1 starts
        there.
    fstar : float or None
        f*, if known.
    minimiser : Tensor or None
        x*, if known: shape (d,).
    accuracies : callable or None
        x of shape (d,) -> accuracies by name; None: that of x on the problem's rows.
    spending : callable or None
        What the clients have spent of their privacy, by name; None: they are not private.
    path : Path or None
        The file to write; None keeps the records in memory only.
    observers : sequence of callable
        Called with each record; one that returns True stops the run.
    """

    def __init__(
        self,
        *,
        config: ExperimentConfig,
        problem: Problem,
        objectives: BatchedObjective,
        fstar: float | None = None,
        minimiser: Tensor | None = None,
        accuracies: Callable[[Tensor], Mapping[str, float]] | None = None,
        spending: Callable[[], Mapping[str, float]] | None = None,
        path: Path | None = None,
        observers: Sequence[Callable[[HistoryRecord], bool | None]] = (),
    ) -> None:
        self._config = config
        self._problem = problem
        self._objectives = objectives
        self._fstar = fstar
        self._minimiser = minimiser
        self._known: tuple[Tensor | None, tuple[float, float, float]] = (None, (0.0, 0.0, 0.0))
        self._accuracies = accuracies or (lambda x: {"accuracy": problem.accuracy(x)})
        self._spending = spending or dict
        self._observers = observers
        self._partition_ids = torch.arange(len(objectives))
        self._regularised = config.prox != "none"
        self._file = None if path is None else HistoryFile(path)
        self._start = time.perf_counter()
        self._bound = float("inf")
        self.last: HistoryRecord = {}
        self.x: Tensor | None = None
        self.reached: dict[str, HistoryRecord] = {}

    def on_start(self, x: Tensor) -> None:
        """Measure and write round 0.

        Raises
        ------
        Diverged
            If f(x^0) is not finite.
        WriteError
            If the file cannot be written.
        """
        self._start = time.perf_counter()
        if self._file is not None:
            self._file.begin()
        counters: HistoryRecord = {
            "uplink_bytes": 0,
            "downlink_bytes": 0,
            "recovery_bytes": 0,
            "cost": 0.0,
            "participants": 0,
            "failures": 0,
        }
        self._add(0, 0, x, counters)

    def on_round(self, record: RoundRecord) -> bool:
        r"""Measure and write one round; True once a target is reached.

        Raises
        ------
        Diverged
            If the loss is not finite or above `DIVERGENCE_FACTOR` (1 + \|f(x^0)\|). The
            record is written first.
        WriteError
            If the file cannot be written.
        """
        counters: HistoryRecord = {
            "uplink_bytes": record.uplink_bytes,
            "downlink_bytes": record.downlink_bytes,
            "recovery_bytes": record.recovery_bytes,
            "cost": record.round * self._config.cost_inner
            + record.outer_round * self._config.cost_outer,
            "participants": record.participants,
            "failures": record.failures,
        }
        return self._add(record.round, record.outer_round, record.x, counters)

    def state(self) -> Mapping[str, object]:
        """How long the history is, which is on the disk then, and what is remembered of it."""
        return {
            "length": 0 if self._file is None else self._file.settle(),
            "seconds": time.perf_counter() - self._start,
            "bound": self._bound,
            "last": self.last,
            "reached": self.reached,
        }

    def on_resume(self, kept: Mapping[str, Any], x: Tensor) -> bool:
        """Cut the history behind the checkpoint's round; True if a target was reached by then.

        Raises
        ------
        ValueError
            If the history is shorter than it was.
        """
        if self._file is not None:
            self._file.go_on(kept["length"])
        self._start = time.perf_counter() - kept["seconds"]
        self._bound, self.last, self.reached = kept["bound"], kept["last"], kept["reached"]
        self.x = x
        return bool(self.reached)

    def on_end(self) -> None:
        """Close the file.

        Raises
        ------
        WriteError
            If the system says only now that something of it was not written.
        """
        if self._file is not None:
            self._file.close()

    def _add(self, round: int, outer_round: int, x: Tensor, counters: HistoryRecord) -> bool:
        self.x = x
        measured: dict[str, float] = {}
        smooth = loss = 0.0
        if self._measures(round, self._config.measure_every):
            smooth, loss, grad_norm_sq = self._measure(x)
            measured = {"loss": loss, "grad_norm_sq": grad_norm_sq}
            if self._fstar is not None:
                measured["gap"] = loss - self._fstar
            if self._minimiser is not None:
                measured["distance_sq"] = float((x - self._minimiser).square().sum())
        if self._measures(round, self._config.accuracy_every):
            measured |= self._accuracies(x)
        measured |= self._spending()
        self.last = {
            "round": round,
            "outer_round": outer_round,
            **{key: value for key, value in measured.items() if isfinite(value)},
            **counters,
            "seconds": time.perf_counter() - self._start,
        }
        if self._file is not None:
            self._file.append(self.last)
        if "loss" in measured:
            self._check_divergence(round, smooth, loss)
        stops = [observer(self.last) for observer in self._observers]
        return self._reached_target() or any(stops)

    def _measures(self, round: int, every: int | None) -> bool:
        return round in (0, self._config.rounds) or bool(every and round % every == 0)

    def _measure(self, x: Tensor) -> tuple[float, float, float]:
        """f(x), f(x) + R(x) and the squared norm of the prox-gradient mapping of step 1/L."""
        if self._known[0] is x:  # SPPM-AS keeps its model while a cohort works
            return self._known[1]
        # A diverging run overflows on its way out; the record says so, not a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            values, gradients = self._objectives.value_and_gradient(x)
            clients = len(self._objectives)
            mean = sum_over_clients(values.unsqueeze(1), self._partition_ids)[0] / clients
            gradient = sum_over_clients(gradients, self._partition_ids) / clients
        smooth = loss = float(mean)
        if self._regularised:
            prox, smoothness = self._problem.prox, self._curvature
            loss += float(prox.value(x))
            gradient = smoothness * (x - prox.prox(x - gradient / smoothness, 1 / smoothness))
        self._known = x, (smooth, loss, float(torch.dot(gradient, gradient)))
        return self._known[1]

    @cached_property
    def _curvature(self) -> float:
        """L, or the inverse of the run's own step where L is not known."""
        smoothness = self._problem.smoothness
        return 1 / parse_stepsize(self._config.stepsize)[0] if smoothness is None else smoothness.L

    def _check_divergence(self, round: int, smooth: float, loss: float) -> None:
        # x^0 may lie outside the domain of R; no later iterate does.
        watched = smooth if round == 0 else loss
        if not isfinite(watched):
            raise Diverged(round, f"the loss is {watched}")
        if round == 0:
            self._bound = DIVERGENCE_FACTOR * (1 + abs(smooth))
        elif loss > self._bound:
            raise Diverged(round, f"the loss {loss:.3g} is above {self._bound:.3g}")

    def _reached_target(self) -> bool:
        gap, accuracy = self.last.get("gap"), self.last.get("accuracy")
        goals = {
            "target-gap": self._config.target_gap is not None
            and gap is not None
            and gap <= self._config.target_gap,
            "target-accuracy": self._config.target_accuracy is not None
            and accuracy is not None
            and accuracy >= self._config.target_accuracy,
        }
        for goal, reached in goals.items():
            if reached:
                self.reached[goal] = self.last
        return bool(self.reached)
