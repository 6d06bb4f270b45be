"""f_i as a torch module, a loss function and a client's data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedstrategies.layout import Layout
from fedstrategies.objectives.autograd import AutogradClient
from fedstrategies.objectives.base import BatchedObjective, Objective
from fedstrategies.objectives.correct_rows import correct_rows
from fedstrategies.objectives.dense import DenseObjectives, dense_client_of
from fedstrategies.objectives.dense_client import DenseClient
from fedstrategies.objectives.examples import Examples, ExampleSource
from fedstrategies.objectives.module_pass import Loss, ModulePass
from fedstrategies.objectives.statistic import ExampleStatistic
from fedstrategies.objectives.vectorized import VectorizedObjectives

__all__ = ["Loss", "TorchObjective"]

logger = logging.getLogger(__name__)

_TRIED = 8
"""Examples on which a module is tried, to see whether it draws."""


class TorchObjective(Objective):
    """``f_i(x) = loss(module_x(features), targets) + (l2/2) ||x||^2`` over a client's examples.

    The flat vector x holds the parameters that match ``trainable``; all others (the frozen
    part under adapters, say) and the buffers stay with this object. The module itself is never
    written to: every thread puts the parameters, and throwaway copies of the buffers, into a
    replica of its own. So clients may share one module, and should: replicas are made once for
    each module and thread. Before each evaluation they follow what was changed on the module (mode,
    hooks, attributes, layers); dense networks in closed form follow the loss's options, too. Which
    parameters there are, and the frozen part and the buffers, are taken when this object is made.

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
        Tensors are not copied.
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
    vectorized : bool
        Take the mini-batches of all clients in one vectorised call (`torch.func.vmap`), for
        accelerators. The results then depend on the other clients in the call, in their last
        places. On CPUs convolutions are slower this way.

    Raises
    ------
    ValueError
        If there is no example, nothing matches ``trainable``, a size is not positive, l2 is
        negative or not finite, or ``statistics_from`` has another layout. On evaluation: if the
        module writes to a parameter, or has got or lost one.

    Examples
    --------
    Two clients with two rows each, who share a module.

    >>> import torch
    >>> from fedstrategies import TorchObjective
    >>> a, y = torch.eye(4), torch.tensor([0, 1, 1, 1])
    >>> linear, loss = torch.nn.Linear, torch.nn.CrossEntropyLoss()
    >>> module = torch.nn.Sequential(linear(4, 3), torch.nn.Tanh(), linear(3, 3), linear(3, 2))
    >>> shards = slice(0, 2), slice(2, 4)
    >>> f = [TorchObjective(module=module, loss=loss, data=(a[s], y[s])) for s in shards]
    >>> f[0].value(torch.zeros(35))
    tensor(0.6931)
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
        vectorized: bool = False,
    ) -> None:
        for name, size in (("batch_size", batch_size), ("chunk_size", chunk_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0.0 <= l2 < float("inf"):
            raise ValueError(f"l2 must be a finite number >= 0, got {l2}")
        self._layout = Layout.of_module(module, trainable=trainable)
        if statistics_from is not None and statistics_from.layout != self._layout:
            raise ValueError("statistics_from must have the layout of this objective")
        self.examples = Examples(data)
        parameters = dict(module.named_parameters())
        if device is None:
            device = parameters[self._layout.names[0]].device
        self.device = torch.device(device)
        self.vectorized = vectorized
        self.autograd = AutogradClient(
            passes=ModulePass(module, self._layout, self.device),
            loss=loss,
            examples=self.examples,
            statistics_of=(statistics_from or self).examples,
            batch_size=batch_size,
            chunk_size=chunk_size,
            l2=l2,
        )
        self.loss = loss

    @property
    def module(self) -> nn.Module:
        """The caller's module."""
        return self.autograd.passes.module

    @property
    def l2(self) -> float:
        """lambda."""
        return self.autograd.l2

    @property
    def chunk_size(self) -> int | None:
        """Examples at a time in full values and gradients; None: all."""
        return self.autograd.chunk_size

    @property
    def loss(self) -> Loss:
        """``loss(output, target)``; another may be set."""
        return self.autograd.loss

    @loss.setter
    def loss(self, loss: Loss) -> None:
        self.autograd = replace(self.autograd, loss=loss)
        self.dense = None if self.vectorized else dense_client_of(self.autograd)

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
        return self.autograd.batch_size is not None

    @property
    def concurrent(self) -> bool:
        """Whether the examples are in memory and no layer is known to draw (as dropout does).

        That is seen when the module is used; before, it is tried on a few examples. A layer that
        draws later is noticed, and keeps the other threads out.
        """
        if self.examples.tensors is None:
            return False
        if self.dense is not None and self.dense.watch.unchanged():
            return True
        try:
            return not self.autograd.draws(_TRIED)
        except Exception:
            # What is wrong with the module is for the training to say, in one thread.
            logger.debug("%s failed when it was tried", type(self.module).__name__, exc_info=True)
            return False

    def initial_arrays(self) -> dict[str, Tensor]:
        """The module's trainable parameters as they are; copies."""
        parameters = dict(self.module.named_parameters())
        return {name: parameters[name].detach().clone() for name in self._layout.names}

    @classmethod
    def stack(cls, objectives: Sequence[Objective]) -> BatchedObjective:
        """The clients as one: vectorised, dense networks of one kind in one call, or in a loop.

        Raises
        ------
        ValueError
            If there is none, or they differ in dimension or dtype.
        """
        plain = [one for one in objectives if type(one) is TorchObjective]
        if plain and len(plain) == len(objectives):
            if all(one.vectorized for one in plain):
                return VectorizedObjectives(plain)
            dense = [one.dense for one in plain if one.dense is not None]
            if len(dense) == len(plain) and len({one.network.kind for one in dense}) == 1:
                return DenseObjectives(plain)
        return super().stack(objectives)

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient; see `Objective.value_and_gradient`."""
        return self._client(x).value_and_gradient(x, key)

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient on some examples; see `Objective.at_rows`."""
        return self._client(x).at_rows(x, rows)

    def mean_statistic(self, x: Tensor, statistic: ExampleStatistic) -> Tensor:
        """See `Objective.mean_statistic`; batch normalisation is as in `value`."""
        return self.autograd.total(x, statistic) / self.num_examples

    def value(self, x: Tensor) -> Tensor:
        """f_i(x) over all examples: shape ()."""
        return self._client(x).value(x)

    def accuracy(self, x: Tensor) -> Tensor:
        """Fraction of examples classified correctly: shape (), NaN if targets are no classes.

        Integer targets with outputs (B, K, ...) are compared with the largest of the K
        scores. Targets of one score an example are compared with its sign: positive against
        targets above 0 (so both 0/1 and -1/+1 will do).
        """

        def fraction(scores: Callable[[Tensor], Tensor]) -> float:
            correct, total = 0, 0
            for features, targets in self.autograd.batches():
                hits = correct_rows(scores(features), targets)
                if hits is None:
                    return float("nan")
                correct += int(hits.sum())
                total += hits.numel()
            return correct / total

        found = self._client(x).scored(x, fraction)
        return torch.full((), found, dtype=x.dtype, device=x.device)

    def random_draws(self, key: Tensor | None) -> AbstractContextManager[object]:
        """Torch's generators seeded by the key (1,), or fixed, and restored."""
        return self.autograd.passes.seeded(key)

    def _statistics(self, x: Tensor) -> dict[str, Tensor]:
        return self.autograd.statistics(x.detach().to(self.device))

    def _client(self, x: Tensor) -> DenseClient | AutogradClient:
        """Who evaluates at x: the kernel, for points it was made for; torch names the others."""
        if self.dense is not None and self.dense.fits(x) and self.dense.watch.unchanged():
            return self.dense
        return self.autograd
