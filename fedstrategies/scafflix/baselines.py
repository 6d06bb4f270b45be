"""What Scafflix is compared with: gradient descent on the FLIX objective, and FedAvg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedstrategies.compressors import Floats
from fedstrategies.flower import Assignment, Delivery, Update
from fedstrategies.objectives import Smoothness
from fedstrategies.robust import Aggregator
from fedstrategies.scafflix import theory as analysis
from fedstrategies.scafflix.algorithm import weighted_mean
from fedstrategies.scafflix.baseline_rules import FedAvgRule, FLIXRule
from fedstrategies.scafflix.personal_strategy import PersonalStrategy
from fedstrategies.server_optimizer import ServerOptimizer

__all__ = ["FLIX", "FedAvg"]


class FLIX(PersonalStrategy):
    """FLIX: (stochastic) gradient descent on ``(1/n) sum_i f_i(alpha_i x + (1-alpha_i) x_i*)``.

    A round: x down, ``alpha_i grad f_i(x~_i)`` up, ``x <- x - gamma mean`` over the cohort.

    Parameters
    ----------
    alpha : float or sequence of float
        alpha_i in [0, 1].
    smoothness : Smoothness or None
        L_i; needed for the theory's step size ``gamma = 1/((1/n) sum_i alpha_i^2 L_i)``.
    stepsize : float, str or None
        gamma. With a server optimiser it is not used.
    server_optimizer : ServerOptimizer or None
        What the server does with the mean gradient in place of a gradient step.
    **base
        See `fedstrategies.flower.BaseStrategy`.

    Raises
    ------
    ValueError
        For settings that are impossible.

    References
    ----------
    Gasanov, Khaled, Horvath, Richtarik, "FLIX: A Simple and Communication-Efficient Alternative
    to Local Methods in Federated Learning" (2022).

    Examples
    --------
    After the example of `ScafflixClient`:

    >>> from fedstrategies import FLIX
    >>> strategy = FLIX(alpha=0.5, stepsize=1.0)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.1418, -0.0862,  0.0862,  0.1731], dtype=torch.float64)
    >>> strategy.bytes.uplink  # bytes of all clients and rounds
    402
    """

    no_aggregator = ""

    def __init__(
        self,
        *,
        alpha: float | Sequence[float] = 0.1,
        smoothness: Smoothness | None = None,
        stepsize: float | str | None = None,
        server_optimizer: ServerOptimizer | None = None,
        **base: Any,
    ) -> None:
        super().__init__(
            alpha=alpha,
            smoothness=smoothness,
            stepsize=stepsize,
            server_optimizer=server_optimizer,
            **base,
        )

    def prepare(self, x: Tensor) -> None:
        """Fix gamma."""
        super().prepare(x)
        if self.server_optimizer is not None and self._relative and self.smoothness is None:
            return
        theory = self.constants.get("gamma")
        self.gamma = self.stepsizes(None if theory is None else (theory,) * self.clients)[0]

    @property
    def constants(self) -> dict[str, float]:
        """``gamma``, the theory's step size, where the L_i are known."""
        known = self.smoothness
        if known is None or known.L_i is None or self.num_clients is None:
            return {}
        return {"gamma": analysis.flix_stepsize(known, alpha=self.alpha)}

    def plan(self, round: int) -> list[Assignment]:
        """One gradient of each client in the cohort."""
        cohort = self.cohort(round)
        return [
            Assignment(
                partition_ids=cohort,
                rule=FLIXRule(alpha=self.alpha),
                constants=(),
                individual=tuple((self.alpha[i],) for i in cohort.tolist()),
                spec="flix",
            )
        ]

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """``x <- x - gamma mean``."""
        mean = _plain_mean(deliveries, self.aggregator)
        if self.server_optimizer is None:
            return Update(x=x - self.gamma * mean)
        return self.descended(x, mean)


class FedAvg(PersonalStrategy):
    """FedAvg: K local (stochastic) gradient steps on each client, then the mean of their models.

    The mean is plain over the cohort, because f is the plain mean of the f_i here. (Flower's own
    ``FedAvg`` weights by examples and leaves the training to the client.) Without control
    variates K > 1 leads to another point than the minimiser of f where clients differ.

    Parameters
    ----------
    local_steps : int
        K.
    smoothness : Smoothness or None
        Needed for the default step size 1/L_max of local gradient descent.
    stepsize : float, str or None
        Of the local steps.
    server_optimizer : ServerOptimizer or None
        What the server does with ``x - mean``; None: x becomes the mean.
    **base
        See `fedstrategies.flower.BaseStrategy`.

    Raises
    ------
    ValueError
        For settings that are impossible.

    References
    ----------
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data"
    (2017); server optimisers: Reddi et al., "Adaptive Federated Optimization" (2021).

    Examples
    --------
    After the example of `ScafflixClient`:

    >>> from fedstrategies import FedAvg
    >>> strategy = FedAvg(local_steps=5, stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.6450, -0.5273,  0.5273,  0.6114], dtype=torch.float64)
    >>> strategy.bytes.uplink  # bytes of all clients and rounds
    402
    """

    no_aggregator = ""

    def __init__(
        self,
        *,
        local_steps: int = 1,
        smoothness: Smoothness | None = None,
        stepsize: float | str | None = None,
        server_optimizer: ServerOptimizer | None = None,
        **base: Any,
    ) -> None:
        if local_steps < 1:
            raise ValueError(f"local_steps = {local_steps}: at least one is needed")
        super().__init__(
            alpha=1.0,
            smoothness=smoothness,
            stepsize=stepsize,
            server_optimizer=server_optimizer,
            **base,
        )
        self.local_steps = local_steps

    def prepare(self, x: Tensor) -> None:
        """Fix gamma."""
        super().prepare(x)
        known = self.smoothness
        theory = None if known is None else (1 / known.L_max,) * self.clients
        self.gamma = self.stepsizes(theory)[0]

    def plan(self, round: int) -> list[Assignment]:
        """K local steps of each client in the cohort."""
        return [
            Assignment(
                partition_ids=self.cohort(round),
                rule=FedAvgRule(local_steps=self.local_steps, gamma=(self.gamma,) * self.clients),
                constants=(float(self.local_steps),),
                individual=((self.gamma,),) * len(self.cohort(round)),
                spec="fedavg",
            )
        ]

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """x becomes the mean of the local models, or what the server's optimiser makes of it."""
        mean = _plain_mean(deliveries, self.aggregator)
        return Update(x=mean) if self.server_optimizer is None else self.descended(x, x - mean)


def _plain_mean(deliveries: Sequence[Delivery], aggregator: Aggregator | None) -> Tensor:
    (delivery,) = deliveries
    values = delivery.payload.values
    assert isinstance(values, Floats)
    equal = torch.ones(len(delivery.partition_ids), dtype=torch.float64)
    if aggregator is not None:
        return aggregator(values.to_tensor(), equal)
    return weighted_mean(values.to_tensor(), equal, delivery.partition_ids)
