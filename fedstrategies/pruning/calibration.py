"""Activations of some linear layers, gathered by forward hooks while batches stream through.

What is kept is `ActivationStatistics`, a few vectors for each layer that is watched; no
activation outlives its batch. The forward pass is left as soon as the last watched layer was
called, so that what comes after a block is not computed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fedstrategies.pruning.activations import ActivationStatistics

__all__ = ["Enough", "calibrate", "calls", "watching"]

Batch = TypeVar("Batch")
Layer = TypeVar("Layer", bound=nn.Module)


class Enough(Exception):
    """All that is watched has been seen."""


@dataclass
class _Watch:
    """Sums over one layer's calls."""

    tokens: int = 0
    calls: int = 0
    sums: list[Tensor] = field(default_factory=list)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        self.calls += 1
        rows, results = inputs.flatten(0, -2), outputs.flatten(0, -2)
        if rows.dtype != torch.float64:
            rows, results = rows.float(), results.float()
        self.tokens += len(rows)
        new = [
            rows.sum(0, dtype=torch.float64),
            rows.square().sum(0, dtype=torch.float64),
            results.square().sum(0, dtype=torch.float64),
        ]
        if self.sums:
            new = [old + one for old, one in zip(self.sums, new, strict=True)]
        self.sums = new


def calibrate(
    module: nn.Module,
    layers: Sequence[str],
    batches: Iterable[Batch],
    *,
    forward: Callable[[nn.Module, Batch], object],
    samples: Callable[[Batch], int],
    expected: Mapping[str, int] | None = None,
) -> dict[str, ActivationStatistics]:
    """Statistics of some linear layers over a calibration set.

    Parameters
    ----------
    module : torch.nn.Module
        In whatever mode it should be run in.
    layers : sequence of str
        Names of `torch.nn.Linear` submodules.
    batches : iterable
        Read once.
    forward : callable
        ``forward(module, batch)`` runs the module; what it returns is not looked at.
    samples : callable
        How many sequences a batch holds.
    expected : mapping of str to int, optional
        How often a batch calls each layer (see `calls`); a pass is left once that was reached.

    Returns
    -------
    dict of str to ActivationStatistics

    Raises
    ------
    ValueError
        If there is no batch, a layer was never called, or what passed through it is not finite.
    """
    watches = {name: _Watch() for name in layers}
    done: dict[str, int] = {}

    def watch(name: str, part: nn.Linear, inputs: Tensor, outputs: Tensor) -> None:
        watches[name].add(inputs, outputs if part.bias is None else outputs - part.bias)
        done[name] = done.get(name, 0) + 1
        if expected and all(done.get(other, 0) >= expected[other] for other in layers):
            raise Enough

    count = 0
    with torch.no_grad(), watching(module, layers, watch):
        for batch in batches:
            done.clear()
            count += samples(batch)
            try:
                forward(module, batch)
            except Enough:
                continue
    if not count:
        raise ValueError("calibration: there is no batch, or none with a sequence")
    return {name: _statistics(name, watched, count) for name, watched in watches.items()}


def calls(
    module: nn.Module,
    layers: Sequence[str],
    batch: Batch,
    *,
    forward: Callable[[nn.Module, Batch], object],
) -> dict[str, int]:
    """How often one batch calls each layer, in the order of first calls."""
    found: dict[str, int] = {}

    def count(name: str, part: nn.Linear, inputs: Tensor, outputs: Tensor) -> None:
        found[name] = found.get(name, 0) + 1

    with torch.no_grad(), watching(module, layers, count):
        forward(module, batch)
    return found


@contextmanager
def watching(
    module: nn.Module,
    layers: Sequence[str],
    watch: Callable[[str, Layer, Tensor, Tensor], None],
) -> Iterator[None]:
    """Look at what some layers are called with, and what they return, while the context is open.

    Parameters
    ----------
    module : torch.nn.Module
        Runs; hooks are on its layers meanwhile.
    layers : sequence of str
        Names of submodules of one argument.
    watch : callable
        ``watch(name, layer, inputs, outputs)`` of each call.
    """

    def hook_of(name: str) -> Callable[..., None]:
        def hook(
            part: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> None:
            watch(name, part, args[0] if args else kwargs["input"], output)

        return hook

    handles = []
    try:
        for name in layers:
            part = module.get_submodule(name)
            handles.append(part.register_forward_hook(hook_of(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _statistics(name: str, watched: _Watch, samples: int) -> ActivationStatistics:
    if not watched.calls:
        raise ValueError(f"{name!r}: no calibration batch reaches this layer; skip it")
    total, squares, results = watched.sums
    if not bool(torch.isfinite(squares).all() and torch.isfinite(results).all()):
        raise ValueError(f"{name!r}: an activation is not finite")
    return ActivationStatistics(
        samples=samples,
        tokens=watched.tokens,
        input_sum=total,
        input_squares=squares,
        output_squares=results,
    )
