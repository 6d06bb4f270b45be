"""Scafflix: explicit personalisation and accelerated local training.

The FLIX problem is ``min_x (1/n) sum_i f_i(x~_i)`` with the deployed model of client i
``x~_i = alpha_i x + (1 - alpha_i) x_i*``, where ``x_i* = argmin f_i``. One round of Scafflix:

    client i in S:   x_i = x
                     K times:   x_i <- x_i - (gamma_i/alpha_i) (g_i - h_i),   g_i ~ grad f_i(x~_i)
                     sends x^_i = x_i
    server:          x = sum_S w_i x^_i / sum_S w_i,   w_i = alpha_i^2 / gamma_i
    settle:          h_i <- h_i + (p alpha_i/gamma_i) (x - x^_i)

alpha_i = 1 is i-Scaffnew, with equal gamma_i Scaffnew (ProxSkip). The invariant is
``sum_i alpha_i h_i = 0``: settling moves it by ``p sum_S w_i (x - x^_i)``, which the weighted
mean x over exactly the used uploads makes zero. It holds only if every used upload is settled by
the mean of the round that used it.

Source: Yi, Condat, Richtarik (2023); dissertation arXiv 2509.08233, chapter on Scafflix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import floor, log1p

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.memoryless import whole
from fedstrategies.objectives import BatchedObjective
from fedstrategies.random import Purpose, client_keys, derived_keys, uniforms
from fedstrategies.reduce import sum_over_clients
from fedstrategies.scafflix.client_rows import deployed_models, rows_of, selected_of

__all__ = [
    "ScafflixRule",
    "draw_local_steps",
    "local_steps",
    "weighted_mean",
]


_AT_A_TIME = 2**20
"""Numbers of memories that are settled at a time."""


def local_steps(
    x: Tensor,
    objective: BatchedObjective,
    *,
    shift: Tensor | None,
    gamma: Tensor,
    alpha: Tensor,
    steps: int,
    keys: Tensor,
    clients: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """K steps ``x_i <- x_i - (gamma_i/alpha_i)(g_i - h_i)`` of C clients, all from x.

    Parameters
    ----------
    x : Tensor
        Model at the start of the round, shape (d,).
    objective : BatchedObjective
        The n clients' f_i; `PersonalObjectives` unless every alpha_i is 1.
    shift : Tensor or None
        h_i, shape (C, d); None: zero.
    gamma, alpha : Tensor
        gamma_i > 0 and alpha_i in (0, 1], float64, shape (C,).
    steps : int
        K >= 1.
    keys : Tensor
        int64, shape (C,): the round's stream of each participating client.
    clients : Tensor or None
        int64, shape (C,): rows of the participants in ``objective``; None: all.

    Returns
    -------
    tuple of Tensor
        x^_i, shape (C, d), and the losses f_i(x~_i) at x, shape (C,).
    """
    scale = (gamma / alpha).to(x).unsqueeze(1)
    draws = derived_keys(keys, Purpose.MINIBATCH)
    points, first, moves = x, None, x.new_empty(0)
    for step in range(steps):
        batch = derived_keys(draws, step) if objective.stochastic else None
        losses, gradients = objective.value_and_gradient(
            deployed_models(objective, points, alpha, clients), clients=clients, keys=batch
        )
        first = losses if first is None else first
        # Models may be large: later steps write where the first one did.
        moves = torch.empty_like(gradients) if step == 0 else moves
        change = gradients if shift is None else torch.sub(gradients, shift, out=moves)
        torch.mul(change, scale, out=moves)
        points = points - moves if step == 0 else points.sub_(moves)
    assert first is not None
    return points, first


def weighted_mean(points: Tensor, weights: Tensor, partition_ids: Tensor) -> Tensor:
    """``sum_j w_j x_j / sum_j w_j`` over the used uploads, in the order of `reduce`.

    Parameters
    ----------
    points : Tensor
        Shape (C, d).
    weights : Tensor
        float64, shape (C,), positive.
    partition_ids : Tensor
        int64, shape (C,), ascending.
    """
    return sum_over_clients(points, partition_ids, weights=weights / weights.sum())


def draw_local_steps(p: float, *, seed: int, round: int) -> int:
    """K ~ Geometric(p) on {1, 2, ...}: the local steps until the coin of the paper shows heads.

    Parameters
    ----------
    p : float
        Communication probability in (0, 1]; the mean is 1/p.
    seed, round : int
        The draw is a function of these alone; all clients take the same K.
    """
    if p >= 1:
        return 1
    key = client_keys(seed, round, torch.zeros(1, dtype=torch.int64), Purpose.LOCAL_STEPS)
    return 1 + floor(log1p(-float(uniforms(key, 1))) / log1p(-p))


@dataclass(frozen=True, kw_only=True)
class ScafflixRule:
    """What a client does in one round of Scafflix.

    gamma and alpha have one entry per row of memory and objective: n on the server, one on a
    client. ``clients`` selects among them as it selects rows of the memory.

    Attributes
    ----------
    local_steps : int
        K of this round.
    p : float
        Communication probability; K is drawn with it, or fixed to 1/p.
    gamma, alpha : tuple of float
        gamma_i and alpha_i; alpha_i = 0 for clients that never take part.
    """

    local_steps: int
    p: float
    gamma: tuple[float, ...]
    alpha: tuple[float, ...]

    @cached_property
    def _gamma(self) -> Tensor:
        return torch.tensor(self.gamma, dtype=torch.float64)

    @cached_property
    def _alpha(self) -> Tensor:
        return torch.tensor(self.alpha, dtype=torch.float64)

    def initial_memory(
        self, clients: int, dimension: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Tensor]:
        """h_i = 0, shape (C, d): only then is sum_i alpha_i h_i = 0 from the start."""
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
        """Models x^_i after K local steps, whole, and losses f_i(x~_i) at x; changes nothing."""
        points, losses = local_steps(
            x,
            objective,
            shift=rows_of(memory["h"], clients),
            gamma=rows_of(self._gamma, clients),
            alpha=rows_of(self._alpha, clients),
            steps=self.local_steps,
            keys=keys,
            clients=clients,
        )
        return whole(points), losses

    def commit_(
        self,
        memory: Mapping[str, Tensor],
        payload: Payload,
        *,
        clients: Tensor | None = None,
        settlement: Tensor | None = None,
    ) -> None:
        """In place: ``h_i <- h_i + (p alpha_i/gamma_i)(x - x^_i)``, x = ``settlement``.

        Raises
        ------
        ValueError
            If the mean of the round that used the upload is not given.
        """
        if settlement is None:
            raise ValueError("Scafflix settles an upload by the mean of the round that used it")
        shares = self.p * rows_of(self._alpha, clients) / rows_of(self._gamma, clients)
        # A few clients at a time: their changes are as long as their memories.
        together = max(1, _AT_A_TIME // len(settlement))
        for start in range(0, len(payload), together):
            some = slice(start, start + together)
            step = shares[some].to(settlement).unsqueeze(1)
            change = step * (settlement - payload.rows(some).dense())
            if clients is None:
                memory["h"][some].add_(change)
            else:
                memory["h"].index_add_(0, clients[some].to(change.device), change)

    def template(self, dimension: int, dtype: torch.dtype) -> Payload:
        """A whole model."""
        return whole(torch.zeros((1, dimension), dtype=dtype))

    def origin(self, sent: Tensor) -> Tensor:
        """x: local steps begin from the model, and the update is ``x^_i - x``."""
        return sent

    def row(self, index: int) -> ScafflixRule:
        """The rule as one client has it."""
        return self.rows(torch.tensor([index]))

    def rows(self, selection: Tensor) -> ScafflixRule:
        """The rule of some clients."""
        gamma, alpha = selected_of(self.gamma, selection), selected_of(self.alpha, selection)
        return replace(self, gamma=gamma, alpha=alpha)
