"""EF-BV: error feedback with bias and variance, one update for biased and unbiased compressors.

Minimise ``f(x) + R(x)`` with ``f = (1/n) sum_i f_i``. Client i keeps a memory h_i, the server
x and ``h = (1/n) sum_i h_i``. Round t:

    client i in S:  d_i = C_i(grad f_i(x) - h_i);   h_i <- h_i + lambda d_i;   sends d_i
    server:         d   = (1/n) sum_i d_i
                    g   = h + nu d                   (the old h)
                    h  <- h + lambda d
                    x  <- prox_{gamma R}(x - gamma g)

Corners: lambda = nu = 1 is EF21; nu = 1, lambda = 1/(1+omega) with an unbiased C is DIANA; the
identity compressor is (proximal) gradient descent, which needs no memory and keeps none.

Source: Condat, Yi, Richtarik (2022); dissertation arXiv 2509.08233, chapter on EF-BV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.compressors import Compressor, Floats, Payload
from fedstrategies.objectives import BatchedObjective, Prox
from fedstrategies.random import Purpose, derived_keys
from fedstrategies.robust import Aggregator

__all__ = ["ClientRule", "ServerState", "Upload", "robust_estimate", "server_step"]


@dataclass(frozen=True, kw_only=True)
class ClientRule:
    """What a client does in one round, for C clients at once.

    Attributes
    ----------
    compressor : Compressor
        C. Not used by a first upload that is sent uncompressed.
    memory_step : float
        Factor of the message in the memory's update: lambda, or (n/m) lambda under
        participation of m of n; 1 for an uncompressed first upload. 0: no memory is kept, and
        h_i = 0 (gradient descent).
    uncompressed : bool
        Send grad f_i(x) - h_i as it is. With h_i = 0 and ``memory_step = 1`` this starts the
        memory at the first gradient (where C(0) would have been sent).
    """

    compressor: Compressor
    memory_step: float
    uncompressed: bool = False

    def initial_memory(
        self, clients: int, dimension: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Tensor]:
        """h_i = 0: shape (C, d); nothing if no memory is kept."""
        if not self.memory_step:
            return {}
        return {"h": torch.zeros((clients, dimension), dtype=dtype, device=device)}

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        """Messages ``C(grad f_i(x) - h_i)`` and losses f_i(x); changes nothing.

        Parameters
        ----------
        memory : mapping
            ``h``: shape (n, d).
        x : Tensor
            Server model, shape (d,).
        objective : BatchedObjective
            The n clients' f_i.
        keys : Tensor
            int64, shape (C,): the round's stream of each participating client.
        clients : Tensor or None
            int64, shape (C,): rows of the participants; None: all.
        """
        draws = derived_keys(keys, Purpose.MINIBATCH) if objective.stochastic else None
        losses, gradients = objective.value_and_gradient(x, clients=clients, keys=draws)
        difference = gradients
        if self.memory_step:
            difference = gradients - (memory["h"] if clients is None else memory["h"][clients])
        if self.uncompressed:
            return Payload(dimension=difference.shape[1], values=Floats(difference)), losses
        draws = derived_keys(keys, Purpose.COMPRESSOR).to(difference.device)
        return self.compressor.compress(difference, draws), losses

    def commit_(
        self,
        memory: Mapping[str, Tensor],
        payload: Payload,
        *,
        clients: Tensor | None = None,
        settlement: Tensor | None = None,
    ) -> None:
        """In place: ``h_i <- h_i + memory_step * message`` once the server used the message."""
        if self.memory_step:
            payload.add_to_(memory["h"], self.memory_step, clients=clients)

    def template(self, dimension: int, dtype: torch.dtype) -> Payload:
        """A message of the kind this rule sends, for the server to compare uploads with."""
        zero = torch.zeros((1, dimension), dtype=dtype)
        if self.uncompressed:
            return Payload(dimension=dimension, values=Floats(zero))
        return self.compressor.compress(zero, torch.zeros(1, dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The server's half: model and mean memory.

    Attributes
    ----------
    x : Tensor
        The model, shape (d,).
    h : Tensor
        mean(h_i), shape (d,), dtype of ``x``.
    """

    x: Tensor
    h: Tensor


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Messages of one kind that the server uses in a round.

    Attributes
    ----------
    partition_ids : Tensor
        int64, shape (C,), ascending.
    payload : Payload
        C messages.
    memory_step, gradient_step : float
        Factors of the messages in h and in g (see `theory.Theory`).
    """

    partition_ids: Tensor
    payload: Payload
    memory_step: float
    gradient_step: float


def robust_estimate(
    memory: Tensor | None, uploads: Sequence[Upload], aggregator: Aggregator
) -> Tensor:
    """What stands in for ``g = (1/n) sum_i (h_i + nu d_i)``, shape (d,).

    ``h_i + nu d_i`` is what client i says of its own gradient; a client that is absent says h_i.
    The aggregator sees these n vectors alike, and whole, whatever the compressor left out of d_i.

    Parameters
    ----------
    memory : Tensor or None
        The server's copy of the h_i, shape (n, d); None where clients keep none: then those who
        answered are taken alone.
    uploads : sequence of Upload
        What arrived.
    aggregator : Aggregator
        In place of the mean.
    """
    if memory is None:
        rows = torch.cat([upload.payload.dense() for upload in uploads])
    else:
        rows = memory.clone()
        for upload in uploads:
            upload.payload.add_to_(rows, upload.gradient_step, clients=upload.partition_ids)
    return aggregator(rows, torch.ones(len(rows), dtype=torch.float64))


def server_step(
    state: ServerState,
    uploads: Sequence[Upload],
    *,
    clients: int,
    gamma: float,
    prox: Prox,
    robust: Tensor | None = None,
) -> ServerState:
    """One round of the server; a client that is absent counts as d_i = 0.

    Parameters
    ----------
    state : ServerState
        x and h before the round.
    uploads : sequence of Upload
        What arrived; h stays ``mean h_i`` whichever clients are missing.
    clients : int
        n: the mean is over all clients, not over the responders.
    gamma : float
        Step size.
    prox : Prox
        R.
    robust : Tensor or None
        `robust_estimate`, which then takes the place of g, shape (d,). h stays ``mean h_i``.
    """
    estimate, memory = state.h, state.h
    for upload in uploads:
        mean = upload.payload.total(upload.partition_ids) / clients
        estimate = estimate + (upload.gradient_step * mean)
        memory = memory + (upload.memory_step * mean)
    if robust is not None:
        estimate = robust
    return ServerState(x=prox.prox(state.x - gamma * estimate, gamma), h=memory)
