"""FedP3 as an experiment."""

from __future__ import annotations

from functools import cached_property
from math import ceil, inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.experiment.fedp3_config import FedP3Config
from fedstrategies.experiment.method import Method, count_releases, own_accuracies, shared_settings
from fedstrategies.experiment.problem import Problem
from fedstrategies.fedp3 import (
    FedP3,
    FedP3Client,
    LDPFedP3,
    PersonalHead,
    groups_of,
    parse_aggregation,
    parse_layer_choice,
)
from fedstrategies.pruning import (
    LayerGroups,
    parse_global_pruning,
    parse_local_pruning,
)
from fedstrategies.random import Purpose, client_keys

if TYPE_CHECKING:
    from flwr.app import Context

__all__ = ["FedP3Method"]


class FedP3Method(Method):
    """FedP3 on a problem."""

    config: FedP3Config

    def __init__(self, config: FedP3Config, problem: Problem) -> None:
        super().__init__(config, problem)
        self._strategy: FedP3 | None = None

    @cached_property
    def groups(self) -> LayerGroups:
        """Layer groups of the problem's model."""
        return groups_of(self.problem.objective(0))

    def strategy(self) -> FedP3:
        """See `Method.strategy`."""
        config = self.config
        kind = LDPFedP3 if config.private else FedP3
        self._strategy = kind(
            groups=self.groups,
            layers=parse_layer_choice(config.layers),
            pruning=parse_global_pruning(config.pruning, keep=config.shares),
            calibration=config.calibration,
            local_pruning=parse_local_pruning(config.local_pruning),
            aggregation=parse_aggregation(config.aggregation),
            local_steps=self.local_steps,
            max_norm=config.clip_gradient or inf,
            trained=config.trained,  # type: ignore[arg-type]
            personal_head=self.heads,
            **shared_settings(config, self.problem),  # type: ignore[arg-type]
        )
        return self._strategy

    @property
    def local_steps(self) -> tuple[int, ...]:
        """K_i: given, or E passes over the client's rows in steps of a batch."""
        if self.config.local_epochs is None:
            return (self.config.local_steps or 1,) * self.config.clients
        return tuple(
            self.config.local_epochs * self._batches(client)
            for client in range(self.config.clients)
        )

    def releases(self) -> list[int]:
        """K_i gradients a participation, and one of activations where they are asked for."""
        rounds, calibration = self.config.rounds, self.config.calibration
        more = [int(calibration is not None and calibration.due(t + 1)) for t in range(rounds)]
        steps = [tuple(k + further for k in self.local_steps) for further in more]
        return count_releases(self.config.clients, self.cohorts(rounds), steps)

    @property
    def heads(self) -> list[PersonalHead] | None:
        """Of all clients; None where none is tuned."""
        found = [self.head(client) for client in range(self.config.clients)]
        return None if self.config.personal_head is None else [h for h in found if h is not None]

    def head(self, client: int) -> PersonalHead | None:
        """How a client tunes its own classifier; None where none does."""
        config = self.config
        if config.personal_head is None:
            return None
        steps = config.personal_head * self._batches(client)
        return PersonalHead(steps=steps, stepsize=float(config.stepsize))

    def _batches(self, client: int) -> int:
        rows = len(self.problem.shards[client])
        return ceil(rows / (self.config.batch_size or rows))

    def client(self, context: Context) -> FedP3Client:
        """See `Method.client`."""
        index = int(context.node_config["partition-id"])
        return FedP3Client(
            context,
            objective=self.problem.objective(index),
            groups=self.groups,
            evaluation=self.problem.held_out_objective(index),
            privacy=self.privacy,
        )

    def accuracies(self, x: Tensor) -> dict[str, float]:
        """The server's model on all test rows, and what each client deploys on its own.

        A client deploys the server's model, after the last round with a head of its own if there
        are any.
        """
        return {
            **super().accuracies(x),
            **own_accuracies(self.problem, [self._deployed(x, i) for i in range(self._clients)]),
        }

    @property
    def _clients(self) -> int:
        return self.config.clients

    def _deployed(self, x: Tensor, client: int) -> Tensor:
        head = self.head(client)
        if head is None or self._strategy is None or self._strategy.round < self.config.rounds:
            return x
        key = client_keys(0, 0, torch.tensor([client]), Purpose.LOCAL_OPTIMUM)
        return head.tuned(x, self.problem.objective(client), self.groups, key)
