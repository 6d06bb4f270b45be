"""Modules that are chains of affine layers and elementwise functions, recognised as such."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from fedstrategies.layout import Layout
from fedstrategies.objectives.standing import HOOKS

__all__ = [
    "Affine",
    "DenseNetwork",
    "Elementwise",
    "altered",
    "dense_network",
    "is_cross_entropy",
]

Elementwise: TypeAlias = Literal["relu", "tanh", "sigmoid", "gelu"]
MeanLoss: TypeAlias = Literal["cross-entropy", "squares"]
MeanLossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_ELEMENTWISE: dict[type[nn.Module], Elementwise] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GELU: "gelu",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """``z = W a + b``, and where W and b are found.

    Attributes
    ----------
    inputs, outputs : int
        The shape of W is (outputs, inputs).
    weight, bias : slice, Tensor or None
        Where in the flat vector; or the frozen tensor; None: there is no bias.
    """

    inputs: int
    outputs: int
    weight: slice | Tensor
    bias: slice | Tensor | None

    @property
    def trained(self) -> bool:
        """Whether any of its parameters is in the flat vector."""
        return isinstance(self.weight, slice) or isinstance(self.bias, slice)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseNetwork:
    """A chain of affine layers and elementwise functions with a mean loss.

    Attributes
    ----------
    dimension : int
        d, the length of the flat vector.
    dtype : torch.dtype
        Of all numbers.
    steps : tuple of Affine or str
        In the order of the forward pass.
    loss : {"cross-entropy", "squares"}
        The mean over the examples of ``-log softmax(z)_t``, or the mean over examples and outputs
        of ``(z - t)^2``.
    kind : tuple
        Equal for networks that may be evaluated in one call: all but the trained numbers.
    """

    dimension: int
    dtype: torch.dtype
    steps: tuple[Affine | Elementwise, ...]
    loss: MeanLoss
    kind: tuple[object, ...]


def dense_network(
    module: nn.Module,
    loss: MeanLossFunction,
    layout: Layout,
    *,
    features: Tensor,
    targets: Tensor,
) -> DenseNetwork | None:
    """The module and its loss as a `DenseNetwork`; None if they are anything else.

    Parameters
    ----------
    module : torch.nn.Module
        A `torch.nn.Linear`, or a `torch.nn.Sequential` of these, of `Flatten` and of the
        functions ReLU, Tanh, Sigmoid, GELU (exact) and Identity; without hooks.
    loss : callable
        The cross-entropy or the mean squared error, with torch's default options.
    layout : Layout
        Of the trained parameters: float32 or float64.
    features, targets : Tensor
        All examples that the module will see, in main memory: (m, ...), and m classes or
        (m, K) numbers.
    """
    layers = list(_layers(module))
    affine = [layer for layer in layers if type(layer) is nn.Linear]
    if not affine or None in layers or altered(module.modules()):
        return None
    # Flatten refuses features without a second axis, and torch is to say so.
    flat = features.ndim == 2 or (features.ndim > 2 and type(layers[0]) is nn.Flatten)
    if not (flat and len(features) and features[0].numel() == affine[0].in_features):
        return None
    if layout.dtype not in (torch.float32, torch.float64) or features.dtype != layout.dtype:
        return None
    known = _mean_loss(loss, features, targets, affine[-1].out_features)
    places = _places(affine, module, layout)
    if known is None or places is None:
        return None
    steps: list[Affine | Elementwise] = []
    for layer in layers:
        if type(layer) is nn.Linear:
            steps.append(
                Affine(
                    inputs=layer.in_features,
                    outputs=layer.out_features,
                    weight=places[id(layer.weight)],
                    bias=None if layer.bias is None else places[id(layer.bias)],
                )
            )
        elif type(layer) in _ELEMENTWISE:
            steps.append(_ELEMENTWISE[cast("type[nn.Module]", type(layer))])
    frozen = tuple(key for key, place in places.items() if isinstance(place, Tensor))
    shapes = tuple(s if isinstance(s, str) else (s.inputs, s.outputs) for s in steps)
    kind = (layout, known, shapes, frozen)
    return DenseNetwork(
        dimension=layout.dimension, dtype=layout.dtype, steps=tuple(steps), loss=known, kind=kind
    )


def is_cross_entropy(loss: MeanLossFunction) -> bool:
    """Whether a loss is the mean of -log softmax(z)_c and nothing else, for classes c >= 0."""
    return loss is nn.functional.cross_entropy or (
        type(loss) is nn.CrossEntropyLoss
        and not altered([loss])
        and loss.weight is None
        and loss.label_smoothing == 0.0
        and loss.reduction == "mean"
        # A class that is ignored is no class.
        and loss.ignore_index < 0
    )


def altered(modules: Iterable[nn.Module]) -> bool:
    """Whether somebody listens to the passes of some of these, or has replaced one."""
    return any(
        "forward" in vars(module) or any(vars(module)[name] for name in HOOKS) for module in modules
    )


def _layers(module: nn.Module) -> Iterator[nn.Module | None]:
    """The layers in order; None stands for one that is not known here."""
    # Exactly these: a subclass, or a parametrised layer, may do anything.
    kind = type(module)
    known = kind in _ELEMENTWISE or kind in (nn.Linear, nn.Identity, nn.Flatten)
    if kind is nn.Sequential:
        # children() leaves out what comes a second time.
        for layer in module._modules.values():
            assert layer is not None
            yield from _layers(layer)
    elif isinstance(module, nn.Flatten):
        yield module if known and module.start_dim == 1 and module.end_dim == -1 else None
    elif isinstance(module, nn.GELU):
        yield module if known and module.approximate == "none" else None
    else:
        yield module if known else None


def _places(
    affine: list[nn.Linear], module: nn.Module, layout: Layout
) -> dict[int, slice | Tensor] | None:
    """Where each parameter is, by its identity; None if some are used twice or elsewhere."""
    used = [p for layer in affine for p in (layer.weight, layer.bias) if p is not None]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    if len(used) != len(names) or len({id(parameter) for parameter in used}) != len(used):
        return None
    if any(parameter.device.type != "cpu" for parameter in used):
        return None
    ends = list(accumulate(layout.sizes))
    slices = {
        name: slice(end - size, end)
        for name, size, end in zip(layout.names, layout.sizes, ends, strict=True)
    }
    return {id(p): slices.get(names[id(p)], p.detach()) for p in used}


def _mean_loss(
    loss: MeanLossFunction, features: Tensor, targets: Tensor, outputs: int
) -> MeanLoss | None:
    if isinstance(loss, nn.Module) and altered([loss]):
        return None
    if is_cross_entropy(loss):
        if targets.ndim != 1 or targets.dtype != torch.int64:
            return None
        # Others are ignored or an error; torch knows which.
        inside = bool((targets >= 0).all()) and bool((targets < outputs).all())
        return "cross-entropy" if inside else None
    if loss is nn.functional.mse_loss or (type(loss) is nn.MSELoss and loss.reduction == "mean"):
        fits = targets.shape == (len(features), outputs) and targets.dtype == features.dtype
        return "squares" if fits else None
    return None
