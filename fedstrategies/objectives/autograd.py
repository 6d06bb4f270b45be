"""A client whose gradients are autograd's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from fedstrategies.objectives.batch_norm import layers_using_the_batch
from fedstrategies.objectives.drawless import loss_draws_nothing
from fedstrategies.objectives.examples import Examples
from fedstrategies.objectives.module_pass import Loss, ModulePass, OpenPass
from fedstrategies.objectives.statistic import ExampleStatistic
from fedstrategies.random import sample_without_replacement

__all__ = ["AutogradClient"]

_WATCHED = 256
"""Examples that pass at a time while something looks at each."""

_Batch = tuple[float, Tensor, Tensor]
_Result = TypeVar("_Result")


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
        return self._over(x, lambda: self._batches(key), key)

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient on some examples; see `Objective.at_rows`."""
        return self._over(x, lambda: iter([(1.0, *self._take(rows))]), None)

    def value(self, x: Tensor) -> Tensor:
        """f_i(x) over all examples: shape ()."""

        def mean(scores: Callable[[Tensor], Tensor]) -> Tensor:
            value = torch.zeros((), dtype=x.dtype, device=self.passes.device)
            for share, features, targets in self._batches(None):
                value += share * self.loss(scores(features), targets)
            return value

        value = self.scored(x, mean)
        value += self._regulariser(x.detach().to(value.device))
        return value.to(x.device)

    def scored(self, x: Tensor, work: Callable[[Callable[[Tensor], Tensor]], _Result]) -> _Result:
        """What ``work`` makes of the module's output under x, without gradients.

        Batch normalisation is by fixed statistics.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        work : callable
            Given a function of features that returns the scores; may be called twice.
        """
        point = self._point(x)
        fixed = self._fixed(point)

        def evaluate(run: OpenPass) -> _Result:
            with torch.no_grad(), run.evaluating():
                return work(lambda features: run.scores(point, features, fixed))

        return self.passes.used(None, evaluate, others_draw=self._others_draw)

    def total(
        self,
        x: Tensor,
        statistic: ExampleStatistic,
        *,
        rows: Tensor | None = None,
        weigh: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The sum of a statistic over examples: float64, shape (S,), where x is.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        statistic : ExampleStatistic
            What is asked of each.
        rows : Tensor or None
            int64 row numbers, shape (b,); None: all.
        weigh : callable or None
            What is added up of a batch's vectors (B, S) in their place; None: they as they are.

        Raises
        ------
        ValueError
            If the statistic cannot tell the examples of a batch apart.
        """
        point = self._point(x)
        fixed = self._fixed(point)
        chosen = torch.arange(len(self.examples)) if rows is None else rows
        chunks = torch.split(chosen, min(_WATCHED, self.chunk_size or _WATCHED))

        def evaluate(run: OpenPass) -> Tensor:
            total = torch.zeros(statistic.dimension, dtype=torch.float64, device=point.device)
            watching = statistic.watching(run.replica.module)
            with torch.no_grad(), run.evaluating(), watching as seen:
                for chunk in chunks if len(chosen) else ():
                    run.scores(point, self._take(chunk)[0], fixed)
                    values = seen()
                    if len(values) != len(chunk):
                        raise ValueError(
                            f"{len(chunk)} examples gave {len(values)} rows of activations: "
                            f"{type(self.passes.module).__name__} does not keep its examples apart"
                        )
                    total += (values if weigh is None else weigh(values)).sum(0)
            return total

        return self.passes.used(None, evaluate, others_draw=self._others_draw).to(x.device)

    def _fixed(self, point: Tensor) -> dict[str, Tensor]:
        """Of batch normalisations that would use the batch; nothing where there are none."""
        return self.statistics(point) if layers_using_the_batch(self.passes.module) else {}

    def statistics(self, point: Tensor) -> dict[str, Tensor]:
        """What batch normalisations are given over all examples; see `batch_norm`."""
        count = len(self.statistics_of)

        def take(rows: Tensor) -> Tensor:
            chosen = None if len(rows) == count else rows
            return self.statistics_of.take(chosen, self.passes.device)[0]

        return self.passes.used(
            None,
            lambda run: run.statistics(point, count, take),
            others_draw=self._others_draw or self.statistics_of.tensors is None,
        )

    def draws(self, tried: int) -> bool:
        """Whether layers draw in the module's present mode; see `ModulePass.draws`.

        Parameters
        ----------
        tried : int
            On how many examples to try the module at most.
        """
        rows = torch.arange(min(tried, len(self.examples)))
        return self.passes.draws(lambda: self._take(rows)[0], others_draw=self._others_draw)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples, in chunks."""
        return ((features, targets) for _, features, targets in self._batches(None))

    @cached_property
    def _others_draw(self) -> bool:
        """Whether the loss, or a data set that is asked for items, may draw."""
        return self.examples.tensors is None or not loss_draws_nothing(self.loss)

    def _point(self, x: Tensor) -> Tensor:
        # A detached tensor would share the count of writes with x, and x with the models of
        # other clients, which other threads may be writing to.
        return x.data.to(self.passes.device)

    def _over(
        self, x: Tensor, batches_of: Callable[[], Iterator[_Batch]], key: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        point = self._point(x)

        def total(run: OpenPass) -> tuple[Tensor, Tensor]:
            batches = batches_of()
            value, gradient = run.value_and_gradient(point, self.loss, *next(batches))
            for batch in batches:
                more, slope = run.value_and_gradient(point, self.loss, *batch)
                value += more
                gradient += slope
            return value, gradient

        value, gradient = self.passes.used(key, total, others_draw=self._others_draw)
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
        if self.chunk_size is None or self.chunk_size >= count:
            yield 1.0, *self._take(None)
            return
        chunk = self.chunk_size
        for start in range(0, count, chunk):
            rows = torch.arange(start, min(start + chunk, count))
            yield len(rows) / count, *self._take(rows)

    def _take(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.examples.take(rows, self.passes.device)
