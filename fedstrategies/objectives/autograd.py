"""A client whose gradients are autograd's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.objectives.batch_norm import layers_using_the_batch
from fedstrategies.objectives.examples import Examples
from fedstrategies.objectives.module_pass import Loss, ModulePass
from fedstrategies.random import sample_without_replacement

__all__ = ["AutogradClient"]

_Batch = tuple[float, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class AutogradClient:
    """Any module on one client's examples.

    Attributes
    ----------
    passes : ModulePass
        The module, its layout and device.
    loss : callable
        ``loss(output, target)``, the mean over the batch.
    examples : Examples
        The client's.
    statistics_of : Examples
        Whose statistics batch normalisation uses in evaluation.
    batch_size, chunk_size, l2
        As in `TorchObjective`.
    """

    passes: ModulePass
    loss: Loss
    examples: Examples
    statistics_of: Examples
    batch_size: int | None
    chunk_size: int | None
    l2: float

    def value_and_gradient(self, x: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient; see `Objective.value_and_gradient`."""
        return self._over(x, self._batches(key), key)

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient on some examples; see `Objective.at_rows`."""
        return self._over(x, iter([(1.0, *self._take(rows))]), None)

    def value(self, x: Tensor) -> Tensor:
        """f_i(x) over all examples: shape ()."""
        value = torch.zeros((), dtype=x.dtype, device=self.passes.device)
        with torch.no_grad(), self.scoring(x) as scores:
            for share, features, targets in self._batches(None):
                value += share * self.loss(scores(features), targets)
        value += self._regulariser(x.detach().to(value.device))
        return value.to(x.device)

    @contextmanager
    def scoring(self, x: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        """Gives the module's output under x; batch normalisation is by fixed statistics."""
        passes = self.passes
        point = x.detach().to(passes.device)
        statistics: dict[str, Tensor] = {}
        if layers_using_the_batch(passes.module):
            statistics = self.statistics(point)
        with passes.opened(None) as run, run.evaluating():
            yield lambda features: run.scores(point, features, statistics)

    def statistics(self, point: Tensor) -> dict[str, Tensor]:
        """What batch normalisations are given over all examples; see `batch_norm`."""

        def take(rows: Tensor) -> Tensor:
            return self.statistics_of.take(rows, self.passes.device)[0]

        with self.passes.opened(None) as run:
            return run.statistics(point, len(self.statistics_of), take)

    def draws(self, tried: int) -> bool:
        """Whether layers draw in the module's present mode; see `ModulePass.draws`.

        Parameters
        ----------
        tried : int
            On how many examples to try the module at most.
        """
        rows = torch.arange(min(tried, len(self.examples)))
        return self.passes.draws(lambda: self._take(rows)[0])

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples, in chunks."""
        return ((features, targets) for _, features, targets in self._batches(None))

    def _over(
        self, x: Tensor, batches: Iterator[_Batch], key: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        point = x.detach().to(self.passes.device)
        with self.passes.opened(key) as run:
            value, gradient = run.value_and_gradient(point, self.loss, *next(batches))
            for batch in batches:
                more, slope = run.value_and_gradient(point, self.loss, *batch)
                value += more
                gradient += slope
        if self.l2:
            value += self._regulariser(point)
            gradient += self.l2 * point
        return value.to(x.device), gradient.to(x.device)

    def _regulariser(self, point: Tensor) -> Tensor | float:
        # ||x||^2 may overflow where f_i does not, and 0 * inf is not a number.
        return 0.5 * self.l2 * (point * point).sum() if self.l2 else 0.0

    def _batches(self, key: Tensor | None) -> Iterator[_Batch]:
        """Share of the examples, features and targets of each batch."""
        count = len(self.examples)
        if key is not None and self.batch_size is not None and self.batch_size < count:
            rows = sample_without_replacement(key, count, self.batch_size)[0]
            yield 1.0, *self._take(rows)
            return
        chunk = self.chunk_size or count
        for start in range(0, count, chunk):
            rows = torch.arange(start, min(start + chunk, count))
            yield len(rows) / count, *self._take(rows)

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.examples.take(rows, self.passes.device)
