"""Batch normalisation in evaluation: statistics of a client's examples, under the model at hand.

A layer that normalises by the batch makes the scores of an example depend on the others beside it.
Evaluation must not: there the layer uses a mean and a variance fixed beforehand. Running averages
are no help in federated learning. They would be state of the client that no model x determines,
they would lag behind x (which jumps when the server's model arrives), and to share them would send
statistics of the data. So they are computed anew for each x from the client's own examples, and
never leave it.

For a layer with inputs a of shape (B, K, ...), over all examples and positions of a channel k:

    mean_k = E a_k,   var_k = E (a_k - mean_k)^2,

where the layers before it normalise by their batch; so with one batch these are the statistics that
training on all examples would use. More than 512 examples are taken in batches of equal size (plus
or minus one), and the statistics are pooled.

Source: "precise" statistics, Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["fixed", "layers_using_the_batch", "statistics_over"]

_BATCH = 512


def layers_using_the_batch(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch normalisations of a module that are in training mode, by their names."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.training
    }


def statistics_over(
    count: int, layers: Mapping[str, _BatchNorm], forward: Callable[[Tensor], None]
) -> dict[str, Tensor]:
    """Mean and variance of what each layer is given, over all examples; computed without gradients.

    Parameters
    ----------
    count : int
        Number of examples.
    layers : mapping of str to batch normalisation
        By the names that they have in the module.
    forward : callable
        Sends the examples of some row numbers (int64, shape (B,)) through the module.

    Returns
    -------
    dict
        ``<layer>.running_mean`` and ``<layer>.running_var``, shape (K,), of every layer that was
        reached.
    """
    moments = {name: _Moments() for name in layers}
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(moments[name].record).remove)
        # No small rest: a channel of one value has no variance.
        for rows in torch.tensor_split(torch.arange(count), ceil(count / _BATCH)):
            forward(rows)
    return {
        f"{name}.{leaf}": value
        for name, seen in moments.items()
        for leaf, value in seen.pooled().items()
    }


@contextmanager
def fixed(layers: Mapping[str, _BatchNorm]) -> Iterator[None]:
    """The layers in evaluation mode, while the context is open."""
    with ExitStack() as modes:
        for layer in layers.values():
            modes.callback(layer.train)
            layer.eval()
        yield


class _Moments:
    """Counts, means and variances of the batches that one layer has seen."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, Tensor, Tensor]] = []

    def record(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        signal = inputs[0].detach()
        axes = [axis for axis in range(signal.ndim) if axis != 1]
        variance, mean = torch.var_mean(signal, dim=axes, correction=0)
        self._batches.append((signal.numel() // signal.shape[1], mean, variance))

    def pooled(self) -> dict[str, Tensor]:
        """Of all values: the variance inside the batches plus that between them."""
        if not self._batches:
            return {}
        total = sum(count for count, _, _ in self._batches)
        shares = [count / total for count, _, _ in self._batches]
        means = [mean for _, mean, _ in self._batches]
        mean = _weighted(shares, means)
        inside = _weighted(shares, [variance for _, _, variance in self._batches])
        between = _weighted(shares, [(other - mean).square() for other in means])
        return {"running_mean": mean, "running_var": inside + between}


def _weighted(shares: list[float], values: list[Tensor]) -> Tensor:
    weights = values[0].new_tensor(shares).unsqueeze(1)
    return (weights * torch.stack(values)).sum(dim=0)
