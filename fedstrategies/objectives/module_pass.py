"""Passes through a module that clients share: with other parameters, and without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fedstrategies.layout import Layout
from fedstrategies.objectives.batch_norm import fixed, layers_using_the_batch, statistics_over
from fedstrategies.objectives.replica import Replica, replica_of, settings_of
from fedstrategies.objectives.seeded_draws import draws, seeded_draws, watched_draws
from fedstrategies.random import derived_keys

__all__ = ["Loss", "ModulePass", "OpenPass"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``loss(output, target)``: the mean over the examples of a batch, shape ()."""

_DROPOUT = 1


class ModulePass:
    """A module with the frozen parameters and the buffers it has now.

    Each thread works on a replica of the module, so that many may use one module at once. Layers
    that draw are let in one at a time: torch's generators belong to the process.

    Parameters
    ----------
    module : torch.nn.Module
        Never written to.
    layout : Layout
        Of the parameters that are put in its place.
    device : torch.device
        Where to compute.
    """

    def __init__(self, module: nn.Module, layout: Layout, device: torch.device) -> None:
        self.module, self.layout, self.device = module, layout, device
        self._modules = tuple(module.modules())
        self._sizes = list(layout.sizes)
        parameters = module.named_parameters()
        kept = [(name, p) for name, p in parameters if name not in layout.names]
        self.frozen = {name: p.detach().to(device) for name, p in kept}
        self.buffers = {name: b.detach().to(device) for name, b in module.named_buffers()}

    @contextmanager
    def opened(self, key: Tensor | None) -> Iterator[OpenPass]:
        """A replica to work on, with the draws of its layers seeded.

        Parameters
        ----------
        key : Tensor or None
            int64, shape (1,): the stream of the draws; None: a fixed seed.
        """
        settings = settings_of(self._modules)
        replica = replica_of(self.module, settings)
        drawing = draws(self.module, settings) if self.module.training else False
        if drawing is False:
            yield OpenPass(self, replica)
            return
        seed = 0 if key is None else int(derived_keys(key, _DROPOUT)[0])
        with (
            watched_draws(self.module, settings, seed, self.device)
            if drawing is None
            else seeded_draws(seed, self.device)
        ):
            yield OpenPass(self, replica)

    def draws(self, sample: Callable[[], Tensor]) -> bool:
        """Whether layers draw from torch's generators in the module's present mode.

        A module that has not been used yet is tried on ``sample()``, some examples' features.
        """
        if not self.module.training:
            # Parts in training mode would draw unseeded.
            return any(module.training for module in self._modules)
        settings = settings_of(self._modules)
        if draws(self.module, settings) is None:
            parameters = dict(self.module.named_parameters())
            named = {name: parameters[name].detach() for name in self.layout.names}
            with torch.no_grad(), self.opened(None) as run:
                run.scores(self.layout.flatten(named).to(self.device), sample())
        return draws(self.module, settings) is not False

    def parts(self, point: Tensor) -> list[Tensor]:
        """The parameters as views of the flat vector (d,).

        Raises
        ------
        ValueError
            If the vector's length is not d.
        """
        if len(point) != sum(self._sizes):
            self.layout.unflatten(point)
        pieces = torch.split(point, self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.layout.shapes, strict=True)]


@dataclass(frozen=True, eq=False)
class OpenPass:
    """A replica at work, in one thread."""

    home: ModulePass
    replica: Replica

    def scores(
        self, point: Tensor, features: Tensor, statistics: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The module's output under x = ``point`` (d,), with some buffers in place of its own."""
        with self._holding(self.home.parts(point), statistics or {}) as module:
            return _scores(module, features)

    def value_and_gradient(
        self, point: Tensor, loss: Loss, share: float, features: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``share`` times the loss of a batch, and its gradient: shapes () and (d,).

        The leaves are the parameters. Were the flat vector the leaf, autograd would add up d
        numbers, mostly zeros, for each parameter.
        """
        parts = self.home.parts(point)
        leaves = [part.requires_grad_() for part in parts]
        with torch.enable_grad(), self._holding(leaves, {}) as module:
            value = loss(_scores(module, features), targets)
            if share != 1.0:
                value = share * value
            slopes = torch.autograd.grad(value, leaves, allow_unused=True)
        pairs = zip(slopes, parts, strict=True)
        flat = [torch.zeros_like(p) if s is None else s for s, p in pairs]
        return value.detach(), torch.cat([slope.reshape(-1) for slope in flat])

    def statistics(
        self, point: Tensor, count: int, take: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """What the batch normalisations are given over ``count`` examples; see `batch_norm`."""
        layers = layers_using_the_batch(self.replica.module)
        return statistics_over(count, layers, lambda rows: self._send(point, take(rows)))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Batch normalisations use fixed statistics, while the context is open."""
        with fixed(layers_using_the_batch(self.replica.module)):
            yield

    def _send(self, point: Tensor, features: Tensor) -> None:
        self.scores(point, features)

    @contextmanager
    def _holding(
        self, parts: list[Tensor], statistics: Mapping[str, Tensor]
    ) -> Iterator[nn.Module]:
        home = self.home
        state = dict(zip(home.layout.names, parts, strict=True))
        state.update(home.frozen)
        for name, buffer in home.buffers.items():
            # A forward pass may write to them.
            state[name] = buffer.clone()
        state.update(statistics)
        with self.replica.holding(state) as module:
            yield module


def _scores(module: nn.Module, features: Tensor) -> Tensor:
    output = module(features)
    if not isinstance(output, Tensor):
        raise ValueError(f"the module returned {type(output).__name__}, expected one tensor")
    return output
