"""SPPM-AS as a Flower strategy: a state machine over Flower's rounds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedstrategies.flower import Assignment, Delivery, Diverged, Update
from fedstrategies.objectives import NoProx, Prox, Smoothness
from fedstrategies.sppm.algorithm import MOST_TRIES, CohortSolve, GradientRule, LocalProxRule
from fedstrategies.sppm.importance import ImportanceStrategy, dense_rows
from fedstrategies.sppm.second_order import LBFGS, ConjugateGradient
from fedstrategies.sppm.solvers import InnerSolver, LocalGDSolver
from fedstrategies.sppm.subproblem import ProxProblem, prox_problem
from fedstrategies.sppm.theory import Theory, sppm

__all__ = ["SPPM"]

logger = logging.getLogger("flwr")


class SPPM(ImportanceStrategy):
    """SPPM-AS: many communication rounds with one cohort, then one step of the server's model.

    A cohort C is drawn and kept for up to K inner rounds, in which it solves
    ``min_z f_C(z) + R(z) + ||z - x||^2/(2 gamma)``, ``f_C = sum_{i in C} f_i/(n p_i)``, by one
    exchange a round; then x becomes the solution and the next cohort is drawn. Each inner round
    is a communication round of this strategy; x changes with the last one of a cohort only.

    Where a client does not answer, it is asked again at the same point, up to three times (each
    time costs a round, `incidents` counts them). Then the cohort is given up and a fresh one
    starts from x: a biased redraw, since cohorts with unreliable clients count less often, and
    the method's fixed point moves. Nothing is lost with a client's state, as there is none.

    Parameters
    ----------
    prox_stepsize : float
        gamma > 0. Any is allowed: large ones contract fast, to a neighbourhood of at most
        sigma^2_{*,AS}/mu_AS^2.
    inner_rounds : int
        K >= 1, communication rounds a cohort at most.
    tolerance : float
        A cohort is done before K rounds if the norm of the gradient of its problem (of the
        prox-gradient mapping, with R; for ``local-gd`` how far a local step moved) is below.
    solver : InnerSolver or None
        None: `LBFGS`.
    smoothness : Smoothness or None
        L_i, for the step sizes of ``gd`` and ``local-gd`` (and the first step of the others),
        and mu_i, for the rate in the summary.
    prox : Prox
        R: solved with the cohort's problem.
    dropouts : {"retry", "freeze"}
        ``freeze``: whoever answered in a cohort's first round goes on alone, with weights scaled
        up. Cheaper, but biased towards reliable clients. Later silence is treated as above.
    **base
        See `fedstrategies.flower.BaseStrategy`. ``sampling`` may be any law of
        `fedstrategies.sampling`.

    Raises
    ------
    ValueError
        For settings that are impossible; some are known only when n is (first round).

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    After the example of `SPPMClient`: three communication rounds solve one cohort's problem.

    >>> from fedstrategies import SPPM
    >>> strategy = SPPM(prox_stepsize=10.0, inner_rounds=3)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.round, strategy.outer_round
    (3, 1)
    >>> strategy.x
    tensor([ 0.5799, -0.2899,  0.2899,  0.8698], dtype=torch.float64)
    """

    attempts_are_rounds: ClassVar[bool] = True
    no_downlink = (
        "what it sends are the points at which its solver of the cohort's problem asks, and the "
        "answers must be from just there"
    )

    def __init__(
        self,
        *,
        prox_stepsize: float = 10.0,
        inner_rounds: int = 10,
        tolerance: float = 0.0,
        solver: InnerSolver | None = None,
        smoothness: Smoothness | None = None,
        prox: Prox | None = None,
        dropouts: Literal["retry", "freeze"] = "retry",
        **base: Any,
    ) -> None:
        if not (isfinite(prox_stepsize) and prox_stepsize > 0):
            raise ValueError(f"prox_stepsize = {prox_stepsize} is not positive and finite")
        if inner_rounds < 1:
            raise ValueError(f"inner_rounds = {inner_rounds}: at least one is needed")
        if not (isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"tolerance = {tolerance} is not a finite number >= 0")
        if dropouts not in ("retry", "freeze"):
            raise ValueError(f"dropouts = {dropouts!r} is neither 'retry' nor 'freeze'")
        if base.get("on_failure", "continue") != "continue":
            raise ValueError("on_failure: SPPM asks silent clients again; see dropouts")
        super().__init__(smoothness=smoothness, **base)
        self.gamma = prox_stepsize
        self.inner_rounds = inner_rounds
        self.tolerance = tolerance
        self.solver: InnerSolver = LBFGS() if solver is None else solver
        if self.aggregator is not None and isinstance(self.solver, LBFGS | ConjugateGradient):
            raise ValueError(
                f"aggregator: not with solver {self.solver.spec}, which infers curvature from "
                "gradients of one function: what an aggregator gives is the gradient of none; take "
                "ProxGD, AdamSolver or LocalGDSolver"
            )
        self.prox: Prox = NoProx() if prox is None else prox
        self.dropouts = dropouts
        self._solve: CohortSolve | None = None
        self._cohorts_done = 0
        self._incidents = {
            "asked_again": 0,
            "biased_redraws": 0,
            "frozen_cohorts": 0,
            "restarts": 0,
        }

    @property
    def outer_round(self) -> int:
        """Cohorts done with, those given up included."""
        return self._cohorts_done

    @property
    def incidents(self) -> Mapping[str, int]:
        """How often silent clients were asked again, cohorts redrawn, frozen and begun anew."""
        return self._incidents

    @property
    def theory(self) -> Theory | None:
        """mu_AS of the sampling, where the mu_i are known; sigma^2 needs x* and is not."""
        known = self.smoothness
        if known is None or known.mu_i is None or self.num_clients is None:
            return None
        return sppm(self.sampling_of(self.clients), mu_i=known.mu_i)

    @property
    def constants(self) -> dict[str, float]:
        """``mu_as`` and the factor of one exact outer step on the squared distance, ``rate``."""
        theory = self.theory
        return {} if theory is None else {"mu_as": theory.mu, "rate": theory.rate(self.gamma)}

    def prepare(self, x: Tensor) -> None:
        """Fix 1/(n p_i); refuse what the solver cannot do."""
        super().prepare(x)
        first = self._begin(x, draw=0)
        self.solver.check(first.problem)
        blind = first.problem.smoothness is None and isinstance(
            self.solver, LBFGS | ConjugateGradient
        )
        if blind and self.inner_rounds == 1:
            raise ValueError(
                f"solver {self.solver.spec}: one inner round teaches it no curvature; give "
                "smoothness=Smoothness(...) with L_i, or inner_rounds >= 2"
            )
        if isinstance(self.solver, LocalGDSolver):
            self._local_rule(self.solver, first)

    @property
    def state_classes(self) -> tuple[type, ...]:
        """Of a solve in progress."""
        return (CohortSolve, ProxProblem, NoProx, type(self.prox), *self.solver.states)

    def method_state(self) -> Mapping[str, object]:
        """The solve in progress, and the counters."""
        return {
            "solve": self._solve,
            "cohorts_done": self._cohorts_done,
            "incidents": dict(self._incidents),
        }

    def set_method_state(self, state: Mapping[str, Any]) -> None:
        """The solve in progress, and the counters."""
        self._solve, self._cohorts_done = state["solve"], state["cohorts_done"]
        self._incidents = dict(state["incidents"])

    def begin(self, num_rounds: int) -> None:
        """Warn if not even one cohort will be done."""
        left = self.inner_rounds - (0 if self._solve is None else self._solve.exchanges)
        if num_rounds < left and self.tolerance == 0:
            logger.warning(
                "%d rounds do not complete a cohort, which takes %d more: the model will not move",
                num_rounds,
                left,
            )

    def plan(self, round: int) -> list[Assignment]:
        """Those of the cohort who have not answered yet, at the solver's point."""
        solve = self._current(self.x)
        silent = solve.silent
        if not isinstance(self.solver, LocalGDSolver):
            rule = GradientRule()
            return [
                Assignment(
                    partition_ids=silent,
                    rule=rule,
                    constants=(),
                    spec="gradient",
                    point=solve.inner.point,
                )
            ]
        local = self._local_rule(self.solver, solve)
        point, anchor = solve.inner.point, solve.problem.centre
        return [
            Assignment(
                partition_ids=silent,
                rule=local,
                constants=(local.steps, local.stepsize, local.curvature, local.vectors),
                spec="local-prox",
                point=point if local.vectors == 1 else torch.stack([point, anchor]),
            )
        ]

    def _local_rule(self, solver: LocalGDSolver, solve: CohortSolve) -> LocalProxRule:
        curvature = solve.problem.curvature / solve.problem.weight
        if solver.stepsize is None:
            local = self.local_constants("solver local-gd")
            stepsize = 1 / (max(local[i] for i in solve.members.tolist()) + curvature)
        else:
            stepsize = solver.stepsize
        apart = not torch.equal(solve.inner.point, solve.problem.centre)
        return LocalProxRule(
            steps=solver.steps, stepsize=stepsize, curvature=curvature, vectors=1 + apart
        )

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """Keep what came; go on once everybody has answered."""
        solve = self._current(x)
        if self._solve is not None and solve.x is not self._solve.x:
            logger.warning(
                "cohort %d begins anew: the model was changed from outside (a wrapper that does so "
                "every round leaves cohorts of more than one inner round no time)",
                solve.draw,
            )
            self._incidents["restarts"] += 1
        for delivery in deliveries:
            solve = solve.received(delivery.partition_ids, dense_rows(delivery))
        if not len(solve.silent):
            return self._go_on(x, solve)
        if self.dropouts == "freeze" and solve.exchanges == 0 and solve.answers:
            smoothness = self.cohort_smoothness(*solve.responders())
            frozen = solve.frozen(self.solver, smoothness)
            logger.warning(
                "cohort %d: %d of %d clients answered and go on alone (biased)",
                solve.draw,
                len(frozen.members),
                len(solve.members),
            )
            return self._go_on(x, frozen, incident="frozen_cohorts")
        again = solve.asked_again()
        if again is not None:
            return self._moved(x, again, incident="asked_again")
        logger.warning(
            "cohort %d: partitions %s do not answer; a fresh cohort is drawn, which biases the "
            "method towards clients that answer (redraw %d)",
            solve.draw,
            ", ".join(map(str, solve.silent.tolist())),
            self._incidents["biased_redraws"] + 1,
        )
        fresh = self._begin(x, draw=solve.draw + 1)
        return self._moved(x, fresh, incident="biased_redraws", finished=1)

    def _go_on(self, x: Tensor, solve: CohortSolve, *, incident: str | None = None) -> Update:
        """After a complete exchange: the next one, or the end of the outer step."""
        solve = solve.advanced(self.solver, self.aggregator)
        inner = solve.inner
        if not bool(torch.isfinite(inner.point).all()):
            raise Diverged(
                self.round + 1,
                f"the inner solver {self.solver.spec} left the finite numbers; a smaller step "
                "size (or gd with L_i) keeps it there",
            )
        done = inner.residual <= self.tolerance
        if solve.exchanges < self.inner_rounds and not done:
            return self._moved(x, solve, incident=incident)
        solution = inner.accepted if done else inner.solution
        following = self._begin(solution, draw=solve.draw + 1)
        return self._moved(solution, following, incident=incident, finished=1)

    def _moved(
        self, x: Tensor, solve: CohortSolve, *, incident: str | None = None, finished: int = 0
    ) -> Update:
        def follow() -> None:
            self._solve = solve
            self._cohorts_done += finished
            if incident is not None:
                self._incidents[incident] += 1

        return Update(x=x, follow=follow)

    def _current(self, x: Tensor) -> CohortSolve:
        """The solve in progress; the same cohort begins anew if the model was changed outside."""
        if self._solve is None:
            return self._begin(x, draw=0)
        if self._solve.x is x or torch.equal(self._solve.x, x):
            return self._solve
        return self._begin(x, draw=self._solve.draw)

    def _begin(self, x: Tensor, *, draw: int) -> CohortSolve:
        members = self.cohort(draw + 1)
        weights = self.importance[members]
        weight = float(weights.sum())
        problem = prox_problem(
            x,
            gamma=self.gamma,
            prox=self.prox,
            smoothness=self.cohort_smoothness(members, weights),
            weight=weight,
        )
        return CohortSolve(
            draw=draw,
            members=members,
            weights=weights,
            x=x,
            problem=problem,
            inner=self.solver.start(problem, x),
        )

    def hopeless(self, faulty: int, asked: int) -> bool:
        """Give up if the whole cohort fails by its own fault and was asked often enough."""
        solve = self._current(self.x)
        return faulty == len(solve.members) and solve.tries == MOST_TRIES

    def note_noise(self) -> None:
        """Say so if the solver takes differences of gradients for curvature."""
        if isinstance(self.solver, LBFGS | ConjugateGradient):
            logger.warning(
                "solver %s infers curvature from differences of gradients, and the clients' are "
                "private: noise enters it, and the step sizes; gd is made for that",
                self.solver.spec,
            )

    def summary(self) -> None:
        """Log what was chosen and from what."""
        logger.info("\t├──> %s, solver %s", type(self).__name__, self.solver.spec)
        logger.info("\t│\t├── gamma = %.10g, K = %d", self.gamma, self.inner_rounds)
        for name, value in self.constants.items():
            logger.info("\t│\t├── %s = %.10g", name, value)
        known = "no mu_i" if self.theory is None else "the clients' mu_i and the sampling"
        logger.info("\t└──> from %s", known)
