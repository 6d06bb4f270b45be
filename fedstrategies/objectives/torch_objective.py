"""f_i as a torch module, a loss function and a client's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedstrategies.layout import Layout
from fedstrategies.objectives.base import Objective
from fedstrategies.objectives.batch_norm import fixed, layers_using_the_batch, statistics_over
from fedstrategies.objectives.correct_rows import correct_rows
from fedstrategies.objectives.examples import Examples, ExampleSource
from fedstrategies.objectives.seeded_draws import seeded_draws
from fedstrategies.random import derived_keys, sample_without_replacement

__all__ = ["Loss", "TorchObjective"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(output, target)``: the mean over the examples of a batch, shape ()."""

_DROPOUT = 1


class TorchObjective(Objective):
    """``f_i(x) = loss(module_x(features), targets) + (l2/2) ||x||^2`` over a client's examples.

    The flat vector x holds the parameters that match ``trainable``; all others (the frozen
    part under adapters, say) and the buffers stay with this object. The module itself is never
    written to: the parameters are passed in functionally, and the buffers as throwaway copies,
    so clients may share one module.

    The module's mode is the caller's choice. In training mode dropout draws from the client's key
    (without key: from a fixed one), and batch normalisation uses

    - for gradients, the statistics of the mini-batch at hand, and of each chunk where there is
      no key. The updates of the running ones are dropped: f_i must be a function of x;
    - for `value` and `accuracy`, statistics of all examples under the same x, computed for the
      call and kept nowhere (`fedstrategies.objectives.batch_norm`). So an example's scores do not
      depend on which others are evaluated beside it.

    After ``module.eval()`` there is no dropout, and batch normalisation uses the running
    statistics the module came with, throughout.

    Parameters
    ----------
    module : torch.nn.Module
        Called as ``module(features)``.
    loss : callable
        ``loss(output, target)``, the mean over the batch, e.g. ``nn.CrossEntropyLoss()``.
    data : torch.utils.data.Dataset or tuple of (Tensor, Tensor)
        A map-style data set of (features, target) pairs, or both stacked along a first axis.
    batch_size : int, optional
        B: with a key, f_i is estimated on B examples drawn without replacement. None: full.
    l2 : float
        lambda >= 0. x holds every trainable parameter, biases included, and no other.
    trainable : str
        Glob over parameter names; ``*`` for all.
    device : torch.device or str, optional
        Where to compute; None: where the module's parameters are.
    chunk_size : int, optional
        Evaluate full values and gradients this many examples at a time, to bound memory. Exact
        unless the module couples the examples (batch normalisation in training mode).
    statistics_from : TorchObjective, optional
        Whose examples the statistics of batch normalisation are of, for an objective that
        measures rows held out of training; None: its own. Of the same layout. No effect on
        modules without batch normalisation.

    Raises
    ------
    ValueError
        If there is no example, nothing matches ``trainable``, a size is not positive, l2 is
        negative or not finite, or ``statistics_from`` has another layout.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        loss: Loss,
        data: ExampleSource,
        batch_size: int | None = None,
        l2: float = 0.0,
        trainable: str = "*",
        device: torch.device | str | None = None,
        chunk_size: int | None = None,
        statistics_from: TorchObjective | None = None,
    ) -> None:
        for name, size in (("batch_size", batch_size), ("chunk_size", chunk_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0.0 <= l2 < float("inf"):
            raise ValueError(f"l2 must be a finite number >= 0, got {l2}")
        self.module, self.loss, self.l2 = module, loss, l2
        self._layout = Layout.of_module(module, trainable=trainable)
        if statistics_from is not None and statistics_from.layout != self._layout:
            raise ValueError("statistics_from must have the layout of this objective")
        self._statistics_from = statistics_from
        self.examples = Examples(data)
        self._batch_size, self.chunk_size = batch_size, chunk_size
        parameters = dict(module.named_parameters())
        if device is None:
            device = parameters[self._layout.names[0]].device
        self.device = torch.device(device)
        kept = [(name, p) for name, p in parameters.items() if name not in self._layout.names]
        self._frozen = {name: p.detach().to(self.device) for name, p in kept}
        self._buffers = {name: b.detach().to(self.device) for name, b in module.named_buffers()}

    @property
    def layout(self) -> Layout:
        """Names and shapes of the trainable parameters."""
        return self._layout

    @property
    def num_examples(self) -> int:
        """m, the number of examples."""
        return len(self.examples)

    @property
    def stochastic(self) -> bool:
        """Whether a batch size is set."""
        return self._batch_size is not None

    def initial_arrays(self) -> dict[str, Tensor]:
        """The module's trainable parameters as they are; copies."""
        parameters = dict(self.module.named_parameters())
        return {name: parameters[name].detach().clone() for name in self._layout.names}

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient; see `Objective.value_and_gradient`."""
        return self._over(x, self._batches(key), key)

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient on some examples; see `Objective.at_rows`."""
        return self._over(x, iter([(1.0, *self.examples.take(rows, self.device))]), None)

    def _over(
        self, x: Tensor, batches: Iterator[tuple[float, Tensor, Tensor]], key: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        point = x.detach().to(self.device).requires_grad_()
        value = torch.zeros((), dtype=x.dtype, device=self.device)
        gradient = torch.zeros_like(point)
        with torch.enable_grad(), self.random_draws(key):
            for share, features, targets in batches:
                part = share * self.loss(self._forward(point, features, {}), targets)
                (slope,) = torch.autograd.grad(part, point, allow_unused=True)
                value += part.detach()
                if slope is not None:
                    gradient += slope
        point = point.detach()
        value += self._regulariser(point)
        if self.l2:
            gradient += self.l2 * point
        return value.to(x.device), gradient.to(x.device)

    def value(self, x: Tensor) -> Tensor:
        """f_i(x) over all examples: shape ()."""
        point = x.detach().to(self.device)
        value = torch.zeros((), dtype=x.dtype, device=self.device)
        with torch.no_grad(), self._evaluation(point) as statistics:
            for share, features, targets in self._batches(None):
                value += share * self.loss(self._forward(point, features, statistics), targets)
        value += self._regulariser(point)
        return value.to(x.device)

    def accuracy(self, x: Tensor) -> Tensor:
        """Fraction of examples classified correctly: shape (), NaN if targets are no classes.

        Integer targets with outputs (B, K, ...) are compared with the largest of the K
        scores. Targets of one score an example are compared with its sign: positive against
        targets above 0 (so both 0/1 and -1/+1 will do).
        """
        point = x.detach().to(self.device)
        correct, total = 0, 0
        with torch.no_grad(), self._evaluation(point) as statistics:
            for _, features, targets in self._batches(None):
                hits = correct_rows(self._forward(point, features, statistics), targets)
                if hits is None:
                    return torch.full((), float("nan"), dtype=x.dtype, device=x.device)
                correct += int(hits.sum())
                total += hits.numel()
        return torch.full((), correct / total, dtype=x.dtype, device=x.device)

    def _regulariser(self, point: Tensor) -> Tensor | float:
        # ||x||^2 may overflow where f_i does not, and 0 * inf is not a number.
        return 0.5 * self.l2 * (point * point).sum() if self.l2 else 0.0

    @contextmanager
    def _evaluation(self, point: Tensor) -> Iterator[dict[str, Tensor]]:
        """Batch normalisation by fixed statistics, which the context gives."""
        layers = layers_using_the_batch(self.module)
        statistics = (self._statistics_from or self)._statistics(point) if layers else {}
        with fixed(layers), self.random_draws(None):
            yield {name: value.to(self.device) for name, value in statistics.items()}

    def _statistics(self, x: Tensor) -> dict[str, Tensor]:
        def forward(rows: Tensor) -> None:
            self._forward(point, self.examples.take(rows, self.device)[0], {})

        point, layers = x.to(self.device), layers_using_the_batch(self.module)
        with self.random_draws(None):
            return statistics_over(self.num_examples, layers, forward)

    def _forward(self, point: Tensor, features: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        state = {
            **self._layout.unflatten(point),
            **self._frozen,
            **{name: buffer.clone() for name, buffer in self._buffers.items()},
            **statistics,
        }
        output = functional_call(self.module, state, (features,))
        if not isinstance(output, Tensor):
            raise ValueError(f"the module returned {type(output).__name__}, expected one tensor")
        return output

    def _batches(self, key: Tensor | None) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Share of the examples, features and targets of each batch."""
        count = self.num_examples
        if key is not None and self._batch_size is not None and self._batch_size < count:
            rows = sample_without_replacement(key, count, self._batch_size)[0]
            yield 1.0, *self.examples.take(rows, self.device)
            return
        chunk = self.chunk_size or count
        for start in range(0, count, chunk):
            rows = torch.arange(start, min(start + chunk, count))
            yield len(rows) / count, *self.examples.take(rows, self.device)

    @contextmanager
    def random_draws(self, key: Tensor | None) -> Iterator[None]:
        """Layers that draw (dropout) use torch's global generators: seed and restore them.

        Parameters
        ----------
        key : Tensor or None
            int64, shape (1,); None: a fixed seed.
        """
        if not self.module.training:
            yield
            return
        seed = 0 if key is None else int(derived_keys(key, _DROPOUT)[0])
        with seeded_draws(seed, self.device):
            yield
