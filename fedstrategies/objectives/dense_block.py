"""Clients of dense networks with equally many examples, evaluated together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedstrategies.objectives.dense_kernels import Numbers, values, values_and_gradients
from fedstrategies.objectives.dense_network import DenseNetwork

if TYPE_CHECKING:
    from fedstrategies.objectives.dense_client import DenseClient

__all__ = ["Block", "evaluate"]


@dataclass(frozen=True, eq=False)
class Block:
    """Clients with equally many examples: where they stand, and the examples.

    ``like`` has their network and l2; ``chunk`` is how many examples to take at a time.
    """

    places: slice | Numbers
    like: DenseClient
    features: Numbers
    targets: Numbers
    chunk: int | None


def evaluate(block: Block, points: Numbers, gradients: Numbers | None) -> Numbers:
    """Values (C,) of a block, its gradients (C, d) written; points are (1, d) or (C, d)."""
    like, features, targets = block.like, block.features, block.targets
    shape = (len(features), points.shape[1])
    every = points if len(points) == len(features) else np.broadcast_to(points, shape)
    if block.chunk is None or block.chunk >= features.shape[1]:
        found = _data_part(like.network, every, features, targets, gradients)
    else:
        found = _in_chunks(like.network, block.chunk, every, features, targets, gradients)
    if like.l2:
        # A point shared by all is squared once.
        found += 0.5 * like.l2 * (points * points).sum(axis=1)
        if gradients is not None:
            gradients += like.l2 * points
    return found


def _in_chunks(
    network: DenseNetwork,
    chunk: int,
    points: Numbers,
    features: Numbers,
    targets: Numbers,
    gradients: Numbers | None,
) -> Numbers:
    found = np.zeros(len(features), dtype=features.dtype)
    part = None if gradients is None else np.empty_like(gradients)
    if gradients is not None:
        gradients[:] = 0.0
    for start in range(0, features.shape[1], chunk):
        some = features[:, start : start + chunk]
        share = some.shape[1] / features.shape[1]
        found += share * _data_part(network, points, some, targets[:, start : start + chunk], part)
        if gradients is not None and part is not None:
            gradients += share * part
    return found


def _data_part(
    network: DenseNetwork,
    points: Numbers,
    features: Numbers,
    targets: Numbers,
    gradients: Numbers | None,
) -> Numbers:
    if gradients is None:
        return values(network, points, features, targets)
    return values_and_gradients(network, points, features, targets, gradients)
