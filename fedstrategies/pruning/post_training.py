"""Post-training pruning of a module's linear layers, block by block.

A block's activations are those that come out of the blocks before it *after* these were pruned.
They are computed anew from the first layer for every block, which costs half as many passes as
there are blocks and keeps nothing but the statistics of one block's layers. Or the outputs of one
block are kept for all batches, and every block runs twice (`replay`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.calibration import calibrate, calls
from fedstrategies.pruning.linear_blocks import LinearBlock, linear_blocks
from fedstrategies.pruning.method import PruningMethod
from fedstrategies.pruning.patterns import Pattern
from fedstrategies.pruning.replay import Forward, Replay

__all__ = ["PrunedLayer", "prune_module"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PrunedLayer:
    """What became of one layer.

    Attributes
    ----------
    name : str
        The linear layer's.
    size, kept : int
        Weights, and how many of them stay.
    seconds : float
        For its mask, without calibration.
    """

    name: str
    size: int
    kept: int
    seconds: float


def prune_module(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    method: PruningMethod,
    pattern: Pattern,
    forward: Callable[[nn.Module, Any], object] | None = None,
    samples: Callable[[Any], int] = len,
    skip: Sequence[str] = (),
    keep_outputs: bool = False,
    observe: Callable[[PrunedLayer], None] | None = None,
) -> tuple[PrunedLayer, ...]:
    """Set to zero what a method removes of the linear layers of a module, in place.

    Parameters
    ----------
    module : torch.nn.Module
        Its mode is restored; biases, embeddings and all else are left alone.
    batches : iterable
        Calibration data, iterated over once for every block: a list, or anything that can begin
        anew. May be empty for methods that need no activations.
    method : PruningMethod
        See `parse_method`.
    pattern : Pattern
        Of the zeros.
    forward : callable, optional
        ``forward(module, batch)``; by default ``module(batch)``.
    samples : callable
        Sequences in a batch.
    skip : sequence of str
        Shell patterns of names of linear layers that stay dense.
    keep_outputs : bool
        Keep what a block gives for every batch in memory, so that a pass begins behind it: two
        passes in all. Where the blocks are no chain (see `replay`) that is logged, and activations
        are computed anew as without it.
    observe : callable, optional
        Called with each layer once it is pruned.

    Returns
    -------
    tuple of PrunedLayer
        In the order in which they were pruned.

    Raises
    ------
    ValueError
        Before anything is pruned: if there is nothing to prune, the pattern does not fit a layer,
        two layers share a weight, or the first batch does not reach a layer whose activations
        are needed. And if activations become infinite, or a method's scores.
    """
    blocks = linear_blocks(module, skip=skip)
    pattern = method.pattern(pattern)
    _check(module, blocks, pattern)
    run = forward or _call
    pruned = []
    with _evaluating(module):
        expected: dict[str, int] = {}
        if method.needs_activations:
            expected = _reached(module, blocks, batches, run)
            first = {name: at for at, name in enumerate(expected)}
            blocks = tuple(sorted(blocks, key=lambda block: min(first[x] for x in block.layers)))
        replay = None
        if method.needs_activations and keep_outputs:
            replay = _replay(module, blocks, batches, run)
        for place, block in enumerate(blocks):
            known: dict[str, ActivationStatistics] = {}
            if method.needs_activations:
                known = calibrate(
                    module,
                    block.layers,
                    enumerate(batches),
                    forward=_second(run) if replay is None else replay.calibrating(place),
                    samples=lambda numbered: samples(numbered[1]),
                    expected=expected,
                )
            for name in block.layers:
                layer = _prune_layer(module, name, method, pattern, known.get(name))
                pruned.append(layer)
                if observe is not None:
                    observe(layer)
    return tuple(pruned)


def _second(forward: Forward) -> Forward:
    """The pass of a batch that comes with its number."""
    return lambda module, numbered: forward(module, numbered[1])


def _replay(
    module: nn.Module, blocks: Sequence[LinearBlock], batches: Iterable[Any], forward: Forward
) -> Replay | None:
    replay = Replay(module, [block.name for block in blocks], forward)
    reason = replay.reason_against(next(iter(batches)))
    if reason is None:
        return replay
    logger.warning(
        "%s: its blocks are no chain (%s), so that outputs of one cannot be kept; activations are "
        "computed anew for each",
        type(module).__name__,
        reason,
    )
    return None


def _call(module: nn.Module, batch: Any) -> object:
    return module(batch)


def _weight(module: nn.Module, name: str) -> Tensor:
    return cast(nn.Linear, module.get_submodule(name)).weight


def _prune_layer(
    module: nn.Module,
    name: str,
    method: PruningMethod,
    pattern: Pattern,
    statistics: ActivationStatistics | None,
) -> PrunedLayer:
    began = time.perf_counter()
    weight = _weight(module, name)
    with torch.no_grad():
        try:
            mask = method.mask(weight, pattern, name=name, statistics=statistics)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from None
        weight.masked_fill_(~mask, 0.0)
        kept = int(mask.sum())
    return PrunedLayer(
        name=name, size=weight.numel(), kept=kept, seconds=time.perf_counter() - began
    )


def _check(module: nn.Module, blocks: Sequence[LinearBlock], pattern: Pattern) -> None:
    owners: dict[int, str] = {}
    outside = {
        id(parameter): name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name.rpartition(".")[0] not in {layer for block in blocks for layer in block.layers}
    }
    for block in blocks:
        for name in block.layers:
            weight = _weight(module, name)
            other = owners.get(id(weight)) or outside.get(id(weight))
            if other is not None:
                raise ValueError(f"{name!r} shares its weight with {other!r}; skip one of them")
            owners[id(weight)] = name
            try:
                pattern.mask(torch.zeros(1, weight.shape[1]))
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from None


def _reached(
    module: nn.Module,
    blocks: Sequence[LinearBlock],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], object],
) -> dict[str, int]:
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("calibration: there is no batch")
    names = [name for block in blocks for name in block.layers]
    found = calls(module, names, first, forward=forward)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{missing[0]!r}: the first calibration batch does not reach this layer"
            + (f" nor {len(missing) - 1} others" if len(missing) > 1 else "")
            + "; skip what is not called"
        )
    return found


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
