"""The private f_i of many clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from fedstrategies.objectives import (
    BatchedLogisticRegression,
    BatchedObjective,
    ExampleStatistic,
    LogisticRegression,
)
from fedstrategies.privacy.budget import BudgetSpent
from fedstrategies.privacy.clipping import clipped_logistic_means, row_norms
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.noise import standard_normals

if TYPE_CHECKING:
    from fedstrategies.privacy.clipped_gradients import ClippedGradients
    from fedstrategies.privacy.objective import PrivateObjective

__all__ = ["PrivateObjectives"]


class PrivateObjectives(BatchedObjective):
    """The private f_i of n clients; a release of each has the bits it has alone.

    Ledgers stay with the members. A call first makes sure that every selected client can pay,
    then charges all, then computes.

    Parameters
    ----------
    members : sequence of PrivateObjective
        One per client, of equal dimension and dtype.

    Raises
    ------
    ValueError
        If there is none, or they differ in kind, dimension or dtype.
    """

    def __init__(self, members: Sequence[PrivateObjective]) -> None:
        self.members = tuple(members)
        plain = [member.objective for member in self.members]
        kinds = {type(objective) for objective in plain}
        if len(kinds) != 1:
            found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "no client"
            raise PrivacyError(f"private clients must be of one kind, got {found}")
        self.exposed: BatchedObjective = kinds.pop().stack(plain)
        """The f_i themselves: for simulations only, outside epsilon."""
        self._logistic: _LogisticClients | None = None
        if isinstance(self.exposed, BatchedLogisticRegression):
            self._logistic = _LogisticClients(self.members, self.exposed)
        self._scales = torch.tensor(
            [m.mechanism.noise_scale(m.num_examples) for m in self.members], dtype=torch.float64
        )
        self._l2 = torch.tensor([objective.l2 for objective in plain], dtype=self.dtype)
        masks = [member.coordinates for member in self.members]
        self._masks = None
        if any(mask is not None for mask in masks):
            everything = torch.ones(self.dimension, dtype=torch.bool)
            self._masks = torch.stack([everything if m is None else m.cpu() for m in masks])

    def remembering(self) -> BatchedObjective:
        """Itself: a release asked for again is another release."""
        return self

    def __len__(self) -> int:
        return len(self.members)

    @property
    def dimension(self) -> int:
        """d, the length of the flat vector."""
        return self.exposed.dimension

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x, values and gradients."""
        return self.exposed.dtype

    @property
    def num_examples(self) -> Tensor:
        """Number of examples of each client: int64, shape (n,)."""
        return self.exposed.num_examples

    @property
    def stochastic(self) -> bool:
        """True: two releases at one point differ."""
        return True

    def spent(self) -> Tensor:
        """Whose budget allows no further release: bool, shape (n,)."""
        return torch.tensor([member.spent for member in self.members])

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """NaN (C',) and one release of each selected gradient (C', d).

        Raises
        ------
        BudgetSpent
            If the budget of one of them allows no further release; then nobody is charged.
        ValueError
            If ``x`` has another shape or dtype; nobody is charged either.
        """
        chosen = list(range(len(self))) if clients is None else clients.tolist()
        points = self._points(x, len(chosen))
        streams = self._charge(points, chosen)
        means = self._clipped_means(x, points, clients, chosen, streams, keys)
        gradients = self._with_noise(means, chosen, [noise for noise, _ in streams])
        if bool(self._l2.any()):
            # Zero times a model that is no number would be none either.
            gradients += self._l2[chosen].to(x.device).unsqueeze(1) * points
        if self._masks is not None:
            gradients *= self._masks[chosen].to(x.device, x.dtype)
        return self._withheld(x, clients), gradients

    def mean_statistics(
        self, x: Tensor, statistic: ExampleStatistic, *, clients: Tensor | None = None
    ) -> Tensor:
        """One release of each selected client: float64, shape (C', S).

        Raises
        ------
        BudgetSpent
            If the budget of one of them allows no further release; then nobody is charged.
        """
        chosen = list(range(len(self))) if clients is None else clients.tolist()
        self._require_solvency(chosen)
        found = [self.members[row].mean_statistic(x, statistic) for row in chosen]
        return torch.stack(found) if found else x.new_empty((0, statistic.dimension)).double()

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """NaN (C',): not released."""
        return self._withheld(x, clients)

    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        """NaN (C',): not released."""
        return self._withheld(x, clients)

    def _withheld(self, x: Tensor, clients: Tensor | None) -> Tensor:
        return x.new_full((len(self) if clients is None else len(clients),), float("nan"))

    def _points(self, x: Tensor, count: int) -> Tensor:
        if x.shape not in ((self.dimension,), (count, self.dimension)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected ({self.dimension},) or "
                f"({count}, {self.dimension})"
            )
        if x.dtype != self.dtype:
            raise ValueError(f"x is {x.dtype}, the data are {self.dtype}; cast one of them")
        return x.expand(count, -1)

    def _charge(self, points: Tensor, chosen: list[int]) -> list[tuple[bytes, bytes]]:
        """Charge one release each; the keys of their noise and samples."""
        self._require_solvency(chosen)
        members = [self.members[row] for row in chosen]
        numbers = [member.charge() for member in members]
        return [
            member.streams(point, number)
            for member, point, number in zip(members, points, numbers, strict=True)
        ]

    def _require_solvency(self, chosen: list[int]) -> None:
        """Nobody is charged for a call that somebody cannot pay."""
        broke = [row for row in chosen if self.members[row].spent]
        if broke:
            raise BudgetSpent(
                f"the privacy budget of {len(broke)} of {len(chosen)} clients is spent (rows "
                f"{', '.join(map(str, broke[:8]))}{', ..' if len(broke) > 8 else ''}); "
                "leave them out"
            )

    def _clipped_means(
        self,
        x: Tensor,
        points: Tensor,
        clients: Tensor | None,
        chosen: list[int],
        streams: Sequence[tuple[bytes, bytes]],
        keys: Tensor | None,
    ) -> Tensor:
        samples = [
            self.members[row].sample(stream)
            for row, (_, stream) in zip(chosen, streams, strict=True)
        ]
        if self._logistic is not None:
            return self._logistic.clipped_means(x, clients, samples)
        means = x.new_empty((len(chosen), self.dimension))
        for place, row in enumerate(chosen):
            key = None if keys is None else keys[place : place + 1]
            clipped = cast("ClippedGradients", self.members[row].clipped)
            means[place] = clipped.mean(points[place], samples[place], key=key)
        return means

    def _with_noise(self, means: Tensor, chosen: list[int], streams: list[bytes]) -> Tensor:
        scales = self._scales[chosen]
        noisy = (scales > 0.0).nonzero()[:, 0]
        if not len(noisy):
            return means
        # Added in float64 and rounded once: a model in float32 hides the noise's last bits.
        normals = standard_normals([streams[place] for place in noisy.tolist()], self.dimension)
        noise = (scales[noisy].unsqueeze(1) * normals).to(means.device)
        means[noisy] = (means[noisy].to(torch.float64) + noise).to(means.dtype)
        return means


class _LogisticClients:
    """Clipped means of logistic regression for many clients in one call."""

    def __init__(
        self, members: Sequence[PrivateObjective], batched: BatchedLogisticRegression
    ) -> None:
        self.shards = batched.shards
        sizes = [member.num_examples for member in members]
        dtype, device = batched.dtype, self.shards.device
        self._starts = torch.tensor([0, *sizes]).cumsum(0)
        self._sizes = torch.tensor(sizes)
        self._norms = torch.cat(
            [
                row_norms(cast("LogisticRegression", one.objective).features, one.coordinates)
                for one in members
            ]
        )
        column: dict[str, Any] = {"dtype": dtype, "device": device}
        mechanisms = [member.mechanism for member in members]
        self._max_norms = torch.tensor([m.max_grad_norm for m in mechanisms], **column)
        self._divisors = torch.tensor(
            [m.batch_size(size) for m, size in zip(mechanisms, sizes, strict=True)], **column
        )
        self._sampled = any(member.sample_rate < 1.0 for member in members)

    def clipped_means(self, x: Tensor, clients: Tensor | None, samples: Sequence[Tensor]) -> Tensor:
        """Shape (C', d)."""
        selected = torch.arange(len(self.shards)) if clients is None else clients
        means = x.new_empty((len(selected), self.shards.dimension))
        for places, block in self.shards.blocks(clients):
            rows = selected[places]
            height = block.rows.shape[1]
            inside = torch.arange(height) < self._sizes[rows].unsqueeze(1)
            norms = x.new_zeros((len(rows), height))
            # In row order on both sides: a client's norms lie one after the other.
            where = self._starts[rows].unsqueeze(1) + torch.arange(height)
            norms[inside] = self._norms[where[inside]]
            chosen = None
            if self._sampled:
                chosen = x.new_zeros((len(rows), height))
                members = torch.arange(len(selected))[places].tolist()
                chosen[inside] = torch.cat([samples[m] for m in members]).to(chosen)
            means[places] = clipped_logistic_means(
                block,
                x if x.ndim == 1 else x[places],
                norms=norms,
                chosen=chosen,
                max_norm=self._max_norms[rows].unsqueeze(1),
                divisor=self._divisors[rows].unsqueeze(1),
            )
        return means
