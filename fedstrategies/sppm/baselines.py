"""What SPPM-AS is compared with: mini-batch (local) gradient descent, and FedProx."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fedstrategies.flower import Assignment, Delivery, Update
from fedstrategies.objectives import Smoothness
from fedstrategies.sppm.algorithm import LocalProxRule, cohort_answer
from fedstrategies.sppm.importance import ImportanceStrategy, dense_rows
from fedstrategies.stepsize import parse_stepsize

__all__ = ["FedProx", "LocalGD"]

logger = logging.getLogger("flwr")


class LocalGD(ImportanceStrategy):
    """Mini-batch LocalGD (FedAvg) under any sampling: H local steps, one communication a cohort.

    ``x <- x + sum_{i in C} (y_i - x)/(n p_i)`` with y_i after H gradient steps on f_i from x. H = 1
    is mini-batch gradient descent, ``x <- x - eta grad f_C(x)``. With full or nice sampling the
    server takes the plain mean of the models. Clients that stay silent are left out and the
    weights of the others scaled up.

    Parameters
    ----------
    local_steps : int
        H.
    smoothness : Smoothness or None
        Needed for the default step size, 1/L_max (less for uneven laws, see `prepare`).
    stepsize : float, str or None
        eta: a number, ``"theory"`` (None) or ``"theory*2"``.
    **base
        See `fedstrategies.flower.BaseStrategy`.

    Raises
    ------
    ValueError
        For settings that are impossible.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    After the example of `SPPMClient`, one client of two at a time:

    >>> from fedstrategies import LocalGD, NiceSampling
    >>> strategy = LocalGD(local_steps=4, stepsize=0.5, sampling=NiceSampling(cohort_size=1))
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.6507, -0.4220,  0.5591,  0.6755], dtype=torch.float64)
    >>> strategy.bytes.uplink  # bytes of all clients and rounds
    201
    """

    def __init__(
        self,
        *,
        local_steps: int = 1,
        smoothness: Smoothness | None = None,
        stepsize: float | str | None = None,
        **base: Any,
    ) -> None:
        if local_steps < 1:
            raise ValueError(f"local_steps = {local_steps}: at least one is needed")
        self._factor, self._relative = parse_stepsize(stepsize)
        super().__init__(smoothness=smoothness, **base)
        self.local_steps = local_steps

    @property
    def pull(self) -> float:
        """1/gamma of FedProx; 0: none."""
        return 0.0

    def prepare(self, x: Tensor) -> None:
        """Fix eta = 1/((L_max + pull) max(W, 1)), unless it is given.

        W is the largest weight ``sum_{i in C} 1/(n p_i)`` of a cohort, by which its mean move is
        multiplied: 1 except for uneven laws.
        """
        super().prepare(x)
        self.gamma = self._factor
        if self._relative:
            largest = -self.sampling_of(self.clients).strong_convexity(
                -torch.ones(self.clients, dtype=torch.float64)
            )
            steepest = max(self.local_constants(type(self).__name__)) + self.pull
            self.gamma /= steepest * max(largest, 1.0)

    def plan(self, round: int) -> list[Assignment]:
        """H local steps of each client in the cohort."""
        rule = LocalProxRule(steps=self.local_steps, stepsize=self.gamma, curvature=self.pull)
        return [
            Assignment(
                partition_ids=self.cohort(round),
                rule=rule,
                constants=(rule.steps, rule.stepsize, rule.curvature, rule.vectors),
                spec="local-prox",
                point=self.x,
            )
        ]

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """The unbiased mean of the local models."""
        (delivery,) = deliveries
        asked = self.importance[delivery.assignment.partition_ids].sum()
        weights = self.importance[delivery.partition_ids]
        weights = weights * (asked / weights.sum())
        moves = dense_rows(delivery) - x
        moved = cohort_answer(moves, weights, delivery.partition_ids, self.aggregator)
        return Update(x=x + moved)

    def summary(self) -> None:
        """Log what was chosen."""
        logger.info("\t├──> %s", type(self).__name__)
        logger.info("\t└──> H = %d, step size %.10g", self.local_steps, self.gamma)


class FedProx(LocalGD):
    """FedProx: each client of the cohort solves its own prox, and the models are averaged.

    ``y_i ~ argmin_y f_i(y) + ||y - x||^2/(2 gamma)`` by H local gradient steps, one communication
    a cohort. This is not SPPM-AS with K = 1: the mean of the clients' proxes is not the prox of
    f_C, unless the cohort is a single client and H is large.

    Parameters
    ----------
    prox_stepsize : float
        gamma; the "mu" of the FedProx paper is 1/gamma.
    **settings
        See `LocalGD`.

    Raises
    ------
    ValueError
        For settings that are impossible.

    References
    ----------
    Li et al., "Federated Optimization in Heterogeneous Networks" (2020).

    Examples
    --------
    After the example of `SPPMClient`:

    >>> from fedstrategies import FedProx
    >>> strategy = FedProx(prox_stepsize=10.0, local_steps=4, stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.5874, -0.4474,  0.4474,  0.5761], dtype=torch.float64)
    >>> strategy.bytes.uplink  # bytes of all clients and rounds
    402
    """

    def __init__(self, *, prox_stepsize: float = 10.0, **settings: Any) -> None:
        if not (isfinite(prox_stepsize) and prox_stepsize > 0):
            raise ValueError(f"prox_stepsize = {prox_stepsize} is not positive and finite")
        super().__init__(**settings)
        self.prox_stepsize = prox_stepsize

    @property
    def pull(self) -> float:
        """1/gamma."""
        return 1 / self.prox_stepsize
