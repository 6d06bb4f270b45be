"""Local pruning Q_{i,k}: which part of its model a client uses in local step k.

At step k client i evaluates and changes ``Q_{i,k} * W_i`` only. A mask is a function of the
client's stream and the step, not of weights or data. Weights are pruned; biases and the
parameters of normalisation layers never are.

From the client's key c of the round, step k draws with ``s = derived(derived(c, LOCAL_PRUNING),
k)``: the ratio from s itself, and the entries of the j-th array of the layout from
``derived(s, j)``.

Source: Yi et al., "FedP3" (ICLR 2024), which names the three; FjORD for the ordered one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedstrategies.pruning.groups import LayerGroups
from fedstrategies.pruning.ordered import leading_blocks
from fedstrategies.random import Purpose, derived_keys, uniforms

__all__ = ["FixedPruning", "LocalPruning", "OrderedDropout", "UniformPruning"]


class LocalPruning(Protocol):
    """A law of masks; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """The law as the command line writes it."""

    def masks(self, groups: LayerGroups, *, step: int, keys: Tensor) -> Tensor | None:
        """Q_{i,k} of C clients.

        Parameters
        ----------
        groups : LayerGroups
            Of the model.
        step : int
            k >= 0, counted within the round.
        keys : Tensor
            int64, shape (C,): the round's stream of each client.

        Returns
        -------
        Tensor or None
            bool, shape (C, d): True where the coordinate is used. None: all are.
        """


@dataclass(frozen=True, kw_only=True)
class FixedPruning:
    """No local pruning: the model stays as it was received."""

    @property
    def spec(self) -> str:
        """``fixed``."""
        return "fixed"

    def masks(self, groups: LayerGroups, *, step: int, keys: Tensor) -> Tensor | None:
        """None."""
        return None


@dataclass(frozen=True, kw_only=True)
class FreshRatio(ABC):
    """What the laws with a fresh ratio u in [q, 1] a step share.

    Attributes
    ----------
    q : float
        Smallest ratio, in (0, 1].

    Raises
    ------
    ValueError
        If q is outside.
    """

    q: float

    def __post_init__(self) -> None:
        if not 0.0 < self.q <= 1.0:
            raise ValueError(f"{self.spec}: the smallest ratio is above 0 and at most 1")

    @property
    @abstractmethod
    def spec(self) -> str:
        """The law as the command line writes it."""

    def ratios(self, streams: Tensor) -> Tensor:
        """u uniform in [q, 1): float64, shape (C,)."""
        return self.q + (1.0 - self.q) * uniforms(streams, 1)[:, 0]


@dataclass(frozen=True, kw_only=True)
class UniformPruning(FreshRatio):
    """A fresh ratio u in [q, 1] each step; every entry of a weight is kept with probability u.

    The ratio is one for the whole model, the entries are independent: ``E mask = u``, and the
    number kept of a weight has standard deviation ``sqrt(numel u (1 - u))``.

    Parameters are those of `FreshRatio`.
    """

    @property
    def spec(self) -> str:
        """``uniform:q=...``."""
        return f"uniform:q={self.q!r}"

    def masks(self, groups: LayerGroups, *, step: int, keys: Tensor) -> Tensor:
        """See `LocalPruning.masks`."""
        streams = _streams(keys, step)
        ratios = self.ratios(streams).unsqueeze(1)
        masks = _everything(keys, groups)
        for position, entry in enumerate(groups.entries):
            if entry.is_weight:
                draws = uniforms(derived_keys(streams, position), entry.size)
                masks[:, entry.span] = draws < ratios
        return masks


@dataclass(frozen=True, kw_only=True)
class OrderedDropout(FreshRatio):
    """A fresh ratio u in [q, 1] each step; the leading block of every weight is kept.

    The block of a matrix is ``W[:ceil(u d1), :ceil(u d2)]``, for convolutions along the first
    two axes. The input axis of the first layer and the output axis of the classifier are never
    cut. Biases stay; the bias of a unit that is cut has no effect where the next layer cuts the
    input it feeds.

    Parameters are those of `FreshRatio`.
    """

    @property
    def spec(self) -> str:
        """``ordered:q=...``."""
        return f"ordered:q={self.q!r}"

    def masks(self, groups: LayerGroups, *, step: int, keys: Tensor) -> Tensor:
        """See `LocalPruning.masks`."""
        ratios = self.ratios(_streams(keys, step))
        masks = _everything(keys, groups)
        for entry in groups.entries:
            if entry.is_weight:
                masks[:, entry.span] = leading_blocks(entry, ratios)
        return masks


def _streams(keys: Tensor, step: int) -> Tensor:
    return derived_keys(derived_keys(keys, Purpose.LOCAL_PRUNING), step)


def _everything(keys: Tensor, groups: LayerGroups) -> Tensor:
    return torch.ones((len(keys), groups.dimension), dtype=torch.bool, device=keys.device)
