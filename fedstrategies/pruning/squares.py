"""Sums of squares of what passes through a model's layers, of each example: what clients may tell.

Of a layer with weight (out, in) an example with inputs x and outputs z (without bias), at all its
positions (tokens, or places of a convolution's window), gives

    sum x^2  (per input feature, in numbers),      sum z^2  (per output unit, out numbers),

and the layers' numbers stand one after the other, in the order of the flat vector. That is all that
the criteria of post-training pruning need to know of the data. Of a mean over many examples it says
little about one of them; of one example it says nearly everything (the first layer's inputs are the
data, and a square has a root), so that small shards need privacy. Layers that nobody prunes (the
classifier) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan, prod

import torch
from torch import Tensor, nn

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.calibration import watching
from fedstrategies.pruning.groups import Entry, LayerGroups

__all__ = ["LEAST_NORM", "SquaredActivations", "is_watchable"]

LEAST_NORM = 1e-100
"""Noise of a scale much below would be a few denormal numbers, or none."""


def is_watchable(module: nn.Module, leaf: str) -> bool:
    """Whether one of a module's weights meets inputs that can be told: linear, or a convolution.

    Parameters
    ----------
    module : torch.nn.Module
        The weight's owner; of grouped convolutions and those that pad with anything but zeros
        the inputs of a weight are not looked at.
    leaf : str
        The weight's name there.
    """
    if leaf != "weight":
        return False
    if type(module) is not nn.Conv2d:
        return type(module) is nn.Linear
    return (
        module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


@dataclass(frozen=True, kw_only=True)
class SquaredActivations:
    """Of each example the sums of squares at the weights that may be pruned.

    Attributes
    ----------
    groups : LayerGroups
        Of the model; weights that are not `Entry.watchable`, and the classifier's, are left out.
    max_norm : float
        C >= 1e-100: to which norm an example's vector is scaled down where noise is to hide it;
        infinity: it is not.

    Raises
    ------
    ValueError
        If the norm is smaller (noise that is a multiple of it must not vanish in float64), or
        there is no weight to watch.
    """

    groups: LayerGroups
    max_norm: float = inf

    def __post_init__(self) -> None:
        if not self.max_norm >= LEAST_NORM:
            raise ValueError(f"max_norm = {self.max_norm} is below {LEAST_NORM}")
        if not self.entries:
            raise ValueError(
                "the model has no linear layer or convolution beside its classifier whose "
                "activations could be looked at; prune by a criterion that needs none"
            )

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The weights that are watched, in the order of the flat vector."""
        kept = self.groups.groups[self.groups.classifier].entries
        return tuple(e for e in self.groups.entries if e.watchable and e not in kept)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Inputs and outputs of each of them, alternately."""
        return tuple(
            length for e in self.entries for length in (prod(e.shape[1:], start=1), e.shape[0])
        )

    @property
    def dimension(self) -> int:
        """S, their sum."""
        return sum(self.lengths)

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[Callable[[], Tensor]]:
        """See `fedstrategies.objectives.ExampleStatistic.watching`.

        Layers that a batch calls several times add up; those that it does not reach give zeros.
        """
        seen: dict[str, Tensor] = {}
        layers = [entry.name.rpartition(".")[0] for entry in self.entries]

        def add(name: str, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
            if inputs.ndim < 2 or (seen and len(inputs) != len(next(iter(seen.values())))):
                raise ValueError(
                    f"{name!r} is given {tuple(inputs.shape)}, where the first axis should be that "
                    "of the examples"
                )
            found = _squares(layer, inputs, outputs)
            seen[name] = seen[name] + found if name in seen else found

        def rows() -> Tensor:
            """Of the last batch."""
            here = dict(seen)
            seen.clear()
            if not here:
                raise ValueError(f"{type(module).__name__} calls none of its layers")
            like = next(iter(here.values()))
            widths = zip(self.lengths[::2], self.lengths[1::2], strict=True)
            return torch.cat(
                [
                    here.get(name, like.new_zeros((len(like), inputs + outputs)))
                    for name, (inputs, outputs) in zip(layers, widths, strict=True)
                ],
                dim=1,
            )

        with watching(module, layers, add):
            yield rows

    def statistics(self, means: Tensor) -> dict[str, ActivationStatistics]:
        """What the criteria read, by the name of the weight.

        Parameters
        ----------
        means : Tensor
            Mean over examples, shape (S,). What noise made negative counts as zero.

        Returns
        -------
        dict of str to ActivationStatistics
            Of one sample, the average example; the sum of inputs, which nobody told, is NaN.
        """
        parts = iter(torch.split(means.double().clamp(min=0.0), list(self.lengths)))
        return {
            entry.name: ActivationStatistics(
                samples=1,
                tokens=1,
                input_sum=torch.full_like(inputs, nan),
                input_squares=inputs,
                output_squares=next(parts),
            )
            for entry, inputs in ((entry, next(parts)) for entry in self.entries)
        }


def _squares(layer: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    """Sums of squares of each example at one layer: float64, shape (B, in + out)."""
    if inputs.dtype != torch.float64:  # squares of half precision end at 65504
        inputs, output = inputs.float(), output.float()
    if isinstance(layer, nn.Conv2d):
        plain = output if layer.bias is None else output - layer.bias.view(-1, 1, 1)
        met = _window_sums(layer, inputs.square(), output.shape[-2:])
        return torch.cat([met, plain.square().sum((2, 3))], dim=1).double()
    assert isinstance(layer, nn.Linear)
    plain = output if layer.bias is None else output - layer.bias
    return torch.cat([_over_tokens(inputs), _over_tokens(plain)], dim=1).double()


def _over_tokens(values: Tensor) -> Tensor:
    """Sums of squares over all axes between the first and the last."""
    squares = values.square()
    return squares if squares.ndim == 2 else squares.flatten(1, -2).sum(1)


def _window_sums(layer: nn.Conv2d, squares: Tensor, places: torch.Size) -> Tensor:
    """What meets each weight of a convolution's kernel, added up over the output's places.

    Weight (a, b) meets input (i stride + a dilation - padding, likewise j) at place (i, j). The sum
    over i and j is ``R S C^T`` with S the squares of a channel and R, C matrices of zeros and
    ones, of which row a says which inputs weight a meets: no window is ever laid out.
    """
    rows, columns = (
        _met(squares, layer, axis, places[axis], squares.shape[2 + axis]) for axis in (0, 1)
    )
    return (rows @ squares @ columns.T).flatten(1)


def _met(like: Tensor, layer: nn.Conv2d, axis: int, places: int, size: int) -> Tensor:
    """Which inputs along an axis each weight meets: zeros and ones, shape (kernel, size)."""
    assert not isinstance(layer.padding, str)
    met = like.new_zeros((layer.kernel_size[axis], size))
    first = torch.arange(places) * layer.stride[axis] - layer.padding[axis]
    for weight, row in enumerate(met):
        inputs = first + weight * layer.dilation[axis]
        row[inputs[(inputs >= 0) & (inputs < size)].to(like.device)] = 1.0
    return met
