"""FedP3: federated training in which each client holds, trains and sends parts of a network.

    server -> client i    W^l for l in L_i, and P_i * W^l for all other layers
    client i              K steps  W_i <- W_i - gamma g,   g a (stochastic) gradient of f_i at
                          Q_{i,k} * W_i, restricted to what Q_{i,k} leaves and i received
    client i -> server    W_i^l for l in L_i
    server                W^l <- a mean of the W_i^l it got; layers that nobody sent stay

In training the server sees of a client's model what is in L_i, and a client with p_i < 1 only part
of the server's. An evaluation on clients sends the model whole: ``fraction_evaluate=0`` leaves it
out.

What arrives as zero among the pruned weights is not there: it takes no part in training. By
default all the rest is trained (`trained="all"`), as in the authors' code, and a client's layers
adapt to each other. With ``trained="assigned"`` only L_i moves: a round is a step of block
descent on f, local memory for gradients is saved, and the next point is a function of what was
sent, on which local differential privacy depends.

Source: Yi et al., "FedP3: Federated Personalized and Privacy-friendly Network Pruning under Model
Heterogeneity" (ICLR 2024); dissertation arXiv 2509.08233.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, isfinite
from typing import Literal

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.fedp3.frames import Downlink
from fedstrategies.memoryless import MemorylessRule, whole
from fedstrategies.objectives import BatchedObjective
from fedstrategies.pruning import FixedPruning, LayerGroups, LocalPruning, SquaredActivations
from fedstrategies.random import Purpose, derived_keys

__all__ = ["FedP3Rule", "LocalTraining", "Trained"]

Trained = Literal["all", "assigned"]
"""Which coordinates a client's local steps move."""


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """K local (stochastic) gradient steps, each on the part of the model that Q_{i,k} leaves.

    Attributes
    ----------
    stepsize : float
        gamma > 0.
    max_norm : float
        Each gradient is scaled down to this norm; infinity: it is not.
    pruning : LocalPruning
        Q.

    Raises
    ------
    ValueError
        If the step size or the norm is not positive.
    """

    stepsize: float
    max_norm: float = inf
    pruning: LocalPruning = field(default_factory=FixedPruning)

    def __post_init__(self) -> None:
        if not (isfinite(self.stepsize) and self.stepsize > 0):
            raise ValueError(f"stepsize = {self.stepsize} is not positive and finite")
        if not self.max_norm > 0:
            raise ValueError(f"max_norm = {self.max_norm} is not positive")

    def run(
        self,
        x: Tensor,
        objective: BatchedObjective,
        groups: LayerGroups,
        *,
        steps: Tensor,
        keys: Tensor,
        trainable: Tensor | None = None,
        clients: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Models W_i after K_i steps, shape (C, d), and losses of the first step, shape (C,).

        Parameters
        ----------
        x : Tensor
            The model as received, shape (d,).
        objective : BatchedObjective
            The n clients' f_i.
        groups : LayerGroups
            Of the model.
        steps : Tensor
            K_i >= 1, int64, shape (C,).
        keys : Tensor
            int64, shape (C,): the round's stream of each participating client.
        trainable : Tensor or None
            bool, shape (d,): what moves; None: everything.
        clients : Tensor or None
            int64, shape (C,): rows of the participants in ``objective``; None: all.
        """
        rows = torch.arange(len(keys)) if clients is None else clients
        batches = derived_keys(keys, Purpose.MINIBATCH)
        points, losses = x, x.new_empty(0)
        for step in range(int(steps.max())):
            active = None if bool((steps > step).all()) else (steps > step).nonzero().flatten()
            here = points if active is None else points[active]
            first, moved = self._step(
                here,
                objective,
                groups,
                step=step,
                keys=keys if active is None else keys[active],
                draws=derived_keys(batches if active is None else batches[active], step),
                trainable=trainable,
                clients=(clients if active is None else rows[active]),
            )
            losses = first if step == 0 else losses
            places = None if active is None else active.to(points.device)
            points = moved if places is None else points.index_copy(0, places, moved)
        return points, losses

    def _step(
        self,
        points: Tensor,
        objective: BatchedObjective,
        groups: LayerGroups,
        *,
        step: int,
        keys: Tensor,
        draws: Tensor,
        trainable: Tensor | None,
        clients: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        masks = self.pruning.masks(groups, step=step, keys=keys)
        masks = None if masks is None else masks.to(points.device)
        losses, gradients = objective.value_and_gradient(
            points if masks is None else points * masks,
            clients=clients,
            keys=draws if objective.stochastic else None,
        )
        if masks is not None:
            gradients = gradients * masks
        if trainable is not None:
            gradients = gradients * trainable
        if self.max_norm < inf:
            norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
            gradients = gradients * (self.max_norm / norms).clamp(max=1.0)
        return losses, points - self.stepsize * gradients


@dataclass(frozen=True, kw_only=True)
class FedP3Rule(MemorylessRule):
    """What a client does in one round of FedP3; sends the layers in L_i.

    Attributes
    ----------
    downlink : Downlink
        What it gets, L_i with it.
    training : LocalTraining
        Its local steps.
    local_steps : tuple of int
        K_i, one per row of the objective.
    trained : str
        ``all`` or ``assigned``.
    activations : SquaredActivations or None
        What it tells of the model it received, behind the layers; None: nothing.
    """

    downlink: Downlink
    training: LocalTraining
    local_steps: tuple[int, ...]
    trained: Trained = "all"
    activations: SquaredActivations | None = None

    @cached_property
    def _steps(self) -> Tensor:
        return torch.tensor(self.local_steps)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Dimension of each frame of the model."""
        return self.downlink.lengths

    def assemble(self, parts: Sequence[Payload]) -> Tensor:
        """The model from its frames; see `Downlink.assemble`."""
        return self.downlink.assemble(parts)

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """The layers in L_i after K_i local steps, end to end, and losses of the first step.

        Behind the layers, if asked for, is what `SquaredActivations` finds in the model received.
        """
        steps = self._steps
        points, losses = self.training.run(
            x,
            objective,
            self.downlink.groups,
            steps=steps if clients is None else steps[clients],
            keys=keys,
            trainable=self.trainable(x),
            clients=clients,
        )
        sent = points[:, self.downlink.own]
        if self.activations is not None:
            told = objective.mean_statistics(x, self.activations, clients=clients)
            sent = torch.cat([sent, told.to(sent)], dim=1)
        return whole(sent), losses

    @property
    def further_releases(self) -> int:
        """Of a private client, beside its local steps."""
        return int(self.activations is not None)

    def trainable(self, x: Tensor) -> Tensor | None:
        """What the local steps move, bool (d,), for a model as received; None: everything."""
        if self.trained == "assigned":
            return None if all(self.downlink.assigned) else self.downlink.own.to(x.device)
        return None if len(self.lengths) == 1 else ~self.downlink.pruned.to(x.device) | (x != 0)

    def template(self, dimension: int, dtype: torch.dtype) -> Payload:
        """The layers in L_i, dense, and what is told of activations."""
        told = 0 if self.activations is None else self.activations.dimension
        return whole(torch.zeros((1, int(self.downlink.own.sum()) + told), dtype=dtype))

    def origin(self, sent: Tensor) -> Tensor:
        """The model on L_i, which is all that an upload without activations holds."""
        return sent[self.downlink.own]

    def row(self, index: int) -> FedP3Rule:
        """The rule as one client has it."""
        return self.rows(torch.tensor([index]))

    def rows(self, selection: Tensor) -> FedP3Rule:
        """The rule of some clients."""
        steps = tuple(self.local_steps[row] for row in selection.tolist())
        return replace(self, local_steps=steps)
