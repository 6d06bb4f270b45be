"""Passes through a module that clients share: with other parameters, and without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from fedstrategies.layout import Layout
from fedstrategies.objectives.batch_norm import fixed, layers_using_the_batch, statistics_over
from fedstrategies.objectives.replica import Replica, replica_of
from fedstrategies.objectives.seeded_draws import seeded_draws, seeded_if_it_draws
from fedstrategies.objectives.standing import standing_of
from fedstrategies.objectives.unwritten import raise_if_written, versions_of
from fedstrategies.random import derived_keys

__all__ = ["Loss", "ModulePass", "OpenPass"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``loss(output, target)``: the mean over the examples of a batch, shape ()."""

_DROPOUT = 1

_Result = TypeVar("_Result")


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
        self._sizes = list(layout.sizes)
        parameters = module.named_parameters()
        kept = [(name, p) for name, p in parameters if name not in layout.names]
        self.frozen = {name: p.detach().to(device) for name, p in kept}
        self.buffers = {name: b.detach().to(device) for name, b in module.named_buffers()}
        self._names = frozenset((*layout.names, *self.frozen, *self.buffers))

    def used(
        self, key: Tensor | None, work: Callable[[OpenPass], _Result], *, others_draw: bool = True
    ) -> _Result:
        """What ``work`` returns, given a replica to work on, with the draws in it seeded.

        Parameters
        ----------
        key : Tensor or None
            int64, shape (1,): the stream of the draws; None: a fixed seed.
        work : callable
            May be called twice: see `seeded_if_it_draws`.
        others_draw : bool
            Whether something in ``work`` may draw beside the layers.

        Raises
        ------
        ValueError
            If the module cannot be copied, or has other parameters or buffers than it had.
        """
        standing = standing_of(self.module)
        replica = replica_of(self.module, standing)
        if replica.names != self._names:
            names = ", ".join(sorted(replica.names ^ self._names))
            raise ValueError(
                f"{type(self.module).__name__} has got or lost parameters or buffers ({names}) "
                "since the objective was made; make the objective after such changes"
            )
        run = OpenPass(self, replica)
        if standing.draws_nothing and not others_draw:
            return work(run)
        return seeded_if_it_draws(standing, lambda: _seed(key), self.device, lambda: work(run))

    def seeded(self, key: Tensor | None) -> AbstractContextManager[None]:
        """Torch's generators seeded, for whoever uses a copy of the module of his own.

        Parameters
        ----------
        key : Tensor or None
            int64, shape (1,): the stream of the draws; None: a fixed seed.
        """
        return seeded_draws(_seed(key), self.device)

    def draws(self, sample: Callable[[], Tensor], *, others_draw: bool) -> bool:
        """Whether draws from torch's generators have been seen, as the module stands.

        A module that has not been used yet is tried on ``sample()``, some examples' features.
        """
        standing = standing_of(self.module)
        if standing.draws_nothing and not others_draw:
            return False
        if not (standing.used or standing.drew):
            parameters = dict(self.module.named_parameters())
            named = {name: parameters[name].detach() for name in self.layout.names}
            point = self.layout.flatten(named).to(self.device)
            with torch.no_grad():
                self.used(None, lambda run: run.scores(point, sample()))
        return standing.drew

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
        with self._holding(point, self.home.parts(point), statistics or {}) as module:
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
        with torch.enable_grad(), self._holding(point, leaves, {}) as module:
            value = loss(_scores(module, features), targets)
            if share != 1.0:
                value = share * value
            slopes = torch.autograd.grad(value, leaves, allow_unused=True)
        pairs = zip(slopes, parts, strict=True)
        return value.detach(), torch.cat([_flat(slope, part) for slope, part in pairs])

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
        self, point: Tensor, parts: list[Tensor], statistics: Mapping[str, Tensor]
    ) -> Iterator[nn.Module]:
        home = self.home
        versions = versions_of(point, home.frozen)
        state = dict(zip(home.layout.names, parts, strict=True))
        state.update(home.frozen)
        for name, buffer in home.buffers.items():
            # A forward pass may write to them.
            state[name] = buffer.clone()
        state.update(statistics)
        try:
            yield self.replica.hold(state)
        finally:
            self.replica.let_go()
        raise_if_written(home.module, versions, point, home.frozen)


def _seed(key: Tensor | None) -> int:
    return 0 if key is None else int(derived_keys(key, _DROPOUT)[0])


def _flat(slope: Tensor | None, part: Tensor) -> Tensor:
    if slope is None:
        return torch.zeros_like(part).reshape(-1)
    # Embeddings may give theirs by the rows that were used.
    return (slope.to_dense() if slope.is_sparse else slope).reshape(-1)


def _scores(module: nn.Module, features: Tensor) -> Tensor:
    output = module(features)
    if not isinstance(output, Tensor):
        raise ValueError(f"the module returned {type(output).__name__}, expected one tensor")
    return output
