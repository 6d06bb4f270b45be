"""What the clients of Scafflix's baselines do: FedAvg's local steps, FLIX's gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.memoryless import MemorylessRule, whole
from fedstrategies.objectives import BatchedObjective
from fedstrategies.random import Purpose, derived_keys
from fedstrategies.scafflix.algorithm import local_steps
from fedstrategies.scafflix.client_rows import deployed_models, rows_of, selected_of

__all__ = ["FLIXRule", "FedAvgRule"]


@dataclass(frozen=True, kw_only=True)
class FedAvgRule(MemorylessRule):
    """K plain local (stochastic) gradient steps on f_i; sends the model.

    Attributes
    ----------
    local_steps : int
        K.
    gamma : tuple of float
        Step size, one per row of the objective.
    """

    local_steps: int
    gamma: tuple[float, ...]

    @cached_property
    def _gamma(self) -> Tensor:
        return torch.tensor(self.gamma, dtype=torch.float64)

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """Models after K local steps and losses f_i(x)."""
        gamma = rows_of(self._gamma, clients)
        points, losses = local_steps(
            x,
            objective,
            shift=None,
            gamma=gamma,
            alpha=torch.ones_like(gamma),
            steps=self.local_steps,
            keys=keys,
            clients=clients,
        )
        return whole(points), losses

    def origin(self, sent: Tensor) -> Tensor:
        """x: local steps begin from the model."""
        return sent

    def row(self, index: int) -> FedAvgRule:
        """The rule as one client has it."""
        return self.rows(torch.tensor([index]))

    def rows(self, selection: Tensor) -> FedAvgRule:
        """The rule of some clients."""
        return replace(self, gamma=selected_of(self.gamma, selection))


@dataclass(frozen=True, kw_only=True)
class FLIXRule(MemorylessRule):
    """One (stochastic) gradient of ``F_i(x) = f_i(alpha_i x + (1 - alpha_i) x_i*)``.

    Attributes
    ----------
    alpha : tuple of float
        alpha_i, one per row of the objective.
    """

    alpha: tuple[float, ...]

    @cached_property
    def _alpha(self) -> Tensor:
        return torch.tensor(self.alpha, dtype=torch.float64)

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """``alpha_i grad f_i(x~_i)`` and losses f_i(x~_i)."""
        alpha = rows_of(self._alpha, clients)
        batch = (
            derived_keys(derived_keys(keys, Purpose.MINIBATCH), 0) if objective.stochastic else None
        )
        losses, gradients = objective.value_and_gradient(
            deployed_models(objective, x, alpha, clients), clients=clients, keys=batch
        )
        return whole(alpha.to(x.dtype).unsqueeze(1) * gradients), losses

    def row(self, index: int) -> FLIXRule:
        """The rule as one client has it."""
        return self.rows(torch.tensor([index]))

    def rows(self, selection: Tensor) -> FLIXRule:
        """The rule of some clients."""
        return replace(self, alpha=selected_of(self.alpha, selection))
