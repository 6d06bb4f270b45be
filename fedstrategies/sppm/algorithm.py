"""SPPM-AS: the stochastic proximal point method with arbitrary sampling ("Cohort Squeeze").

One outer step: draw a cohort C by a sampling with ``p_i = P(i in C) > 0`` and move to

    x_{t+1} = prox_{gamma f_C}(x_t) = argmin_z f_C(z) + ||z - x_t||^2/(2 gamma),
    f_C = sum_{i in C} f_i/(n p_i),        E f_C = f = (1/n) sum_i f_i.

The cohort solves the problem together in K inner communication rounds, each one exchange: a
point down, an answer of each client up. Any gamma > 0 is allowed: a large one goes far in one
step, to a larger neighbourhood. Clients remember nothing, so everything travels.

Source: Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
Cross-Device Federated Learning" (2024); dissertation arXiv 2509.08233, chapter on SPPM-AS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.memoryless import MemorylessRule, whole
from fedstrategies.objectives import BatchedObjective
from fedstrategies.random import Purpose, derived_keys
from fedstrategies.reduce import sum_over_clients
from fedstrategies.robust import Aggregator
from fedstrategies.sppm.solvers import InnerSolver, InnerState
from fedstrategies.sppm.subproblem import ProxProblem

__all__ = ["MOST_TRIES", "CohortSolve", "GradientRule", "LocalProxRule", "cohort_answer"]

MOST_TRIES = 3
"""How often clients that do not answer are asked again before the cohort is given up."""


@dataclass(frozen=True)
class GradientRule(MemorylessRule):
    """What a client does in an exchange of gradients: grad f_i at the point it is sent."""

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """grad f_i(x), or its mini-batch estimate, and f_i(x)."""
        losses, gradients = objective.value_and_gradient(
            x, clients=clients, keys=_batch(objective, keys, 0)
        )
        return whole(gradients), losses


@dataclass(frozen=True, kw_only=True)
class LocalProxRule(MemorylessRule):
    """What a client does in an exchange of models: H local steps on its own prox.

    ``y <- y - eta (grad f_i(y) + rho (y - a))``, H times from z. rho = 0 is plain local training.

    Attributes
    ----------
    steps : int
        H.
    stepsize : float
        eta.
    curvature : float
        rho >= 0: strength of the pull towards a.
    vectors : int
        1: z travels and a = z. 2: z and a travel.
    """

    steps: int
    stepsize: float
    curvature: float
    vectors: int = 1

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """Models y_i after H steps and f_i(z); x is z (d,), or z and a, shape (vectors, d)."""
        sent = x.reshape(-1, objective.dimension)
        points, anchor, first = sent[0], sent[-1], None
        for step in range(self.steps):
            losses, gradients = objective.value_and_gradient(
                points, clients=clients, keys=_batch(objective, keys, step)
            )
            first = losses if first is None else first
            points = points - self.stepsize * (gradients + self.curvature * (points - anchor))
        assert first is not None
        return whole(points), first

    def origin(self, sent: Tensor) -> Tensor:
        """z, from which local steps begin."""
        return sent.reshape(self.vectors, -1)[0]


def cohort_answer(
    rows: Tensor, weights: Tensor, partition_ids: Tensor, aggregator: Aggregator | None = None
) -> Tensor:
    """``sum_i w_i rows_i`` in the order of `reduce`, or what stands in for it.

    Parameters
    ----------
    rows : Tensor
        Gradients or models, shape (C, d).
    weights : Tensor
        float64, shape (C,).
    partition_ids : Tensor
        int64, shape (C,), ascending.
    aggregator : Aggregator or None
        If given, ``(sum_i w_i) A(rows, w)``.
    """
    if aggregator is not None:
        return float(weights.sum()) * aggregator(rows, weights)
    return sum_over_clients(rows, partition_ids, weights=weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortSolve:
    """One cohort at work on one prox problem: everything that lasts between its inner rounds.

    f_C is fixed while the cohort works. An answer that came stays; who did not answer is asked
    again at the same point. That keeps the law of the sampling. Going on without the silent
    client would solve another problem, and a fresh draw in its place makes the cohorts that
    count follow P(C | everybody answered), which moves the fixed point of the method.

    Attributes
    ----------
    draw : int
        Which cohort of the run this is, from 0.
    members, weights : Tensor
        Partition ids (int64, ascending) and ``w_i = 1/(n p_i)``: shape (m,).
    x : Tensor
        x_t, shape (d,).
    problem : ProxProblem
        What is solved.
    inner : InnerState
        Where the solver stands.
    exchanges : int
        Complete exchanges so far.
    answers : mapping of int to Tensor
        By partition id, what members have sent in the current exchange: shape (d,).
    tries : int
        How often members were asked again in the current exchange.
    """

    draw: int
    members: Tensor
    weights: Tensor
    x: Tensor
    problem: ProxProblem
    inner: InnerState
    exchanges: int = 0
    answers: Mapping[int, Tensor] = field(default_factory=dict)
    tries: int = 0

    @property
    def silent(self) -> Tensor:
        """Members whose answer is missing: int64, ascending."""
        missing = [i for i in self.members.tolist() if i not in self.answers]
        return torch.tensor(missing, dtype=torch.int64)

    def received(self, partition_ids: Tensor, rows: Tensor) -> CohortSolve:
        """The solve with the answers (C', d) of some members."""
        new = dict(zip(partition_ids.tolist(), rows, strict=True))
        return replace(self, answers={**self.answers, **new})

    def asked_again(self) -> CohortSolve | None:
        """One more try at the current exchange; None if there were enough."""
        return None if self.tries == MOST_TRIES else replace(self, tries=self.tries + 1)

    def responders(self) -> tuple[Tensor, Tensor]:
        """Who answered, and their weights scaled up to the weight of the cohort."""
        present = torch.tensor([i in self.answers for i in self.members.tolist()])
        kept = self.weights[present]
        return self.members[present], kept * (self.problem.weight / kept.sum())

    def frozen(self, solver: InnerSolver, smoothness: float | None) -> CohortSolve:
        """Only those who answered the first exchange go on; ``smoothness`` is L_C of them.

        The clients that answer are then over-represented: f_C is biased by who is reliable.
        """
        members, weights = self.responders()
        problem = replace(self.problem, smoothness=smoothness)
        return replace(
            self,
            members=members,
            weights=weights,
            problem=problem,
            inner=solver.start(problem, self.x),
        )

    def advanced(self, solver: InnerSolver, aggregator: Aggregator | None = None) -> CohortSolve:
        """The solve after a complete exchange; see `cohort_answer` for ``aggregator``."""
        rows = torch.stack([self.answers[i] for i in self.members.tolist()])
        scale = self.problem.weight if solver.answers == "models" else 1.0
        answer = cohort_answer(rows, self.weights / scale, self.members, aggregator)
        return replace(
            self,
            inner=solver.advance(self.problem, self.inner, answer),
            exchanges=self.exchanges + 1,
            answers={},
            tries=0,
        )


def _batch(objective: BatchedObjective, keys: Tensor, step: int) -> Tensor | None:
    """The mini-batch stream of one local step."""
    if not objective.stochastic:
        return None
    return derived_keys(derived_keys(keys, Purpose.MINIBATCH), step)
