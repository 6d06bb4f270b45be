"""Values and gradients of clients with dense networks, each with the bits it has alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedstrategies.objectives.dense_block import Block, evaluate
from fedstrategies.objectives.dense_kernels import Numbers, scores
from fedstrategies.objectives.dense_network import DenseNetwork
from fedstrategies.objectives.dense_watch import DenseWatch
from fedstrategies.random import sample_without_replacement

__all__ = ["DenseClient", "dense_gradients", "dense_values"]

_Result = TypeVar("_Result")

# Clients are taken together while their rows, models and gradients take at most this much: the
# backward pass then finds in the cache what the forward pass has read.
_BLOCK_BYTES = 2**22
# Clients whose examples take at most this much are copied side by side. For larger ones the copy
# would cost more than the calls that it saves.
_COPIED_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseClient:
    """One client of a dense network.

    Attributes
    ----------
    network : DenseNetwork
        Its model.
    features, targets : ndarray
        (m, inputs), and (m,) or (m, K); views of the user's tensors.
    batch_size, chunk_size : int or None
        As in `TorchObjective`.
    l2 : float
        lambda.
    watch : DenseWatch
        Whether the module and the loss are still those of ``network``.
    labels : Tensor
        The targets as the user has them.
    version : int
        ``labels._version`` when they were found to be classes.
    """

    network: DenseNetwork
    features: Numbers
    targets: Numbers
    batch_size: int | None
    chunk_size: int | None
    l2: float
    watch: DenseWatch
    labels: Tensor
    version: int

    def drawn(self, keyed: bool) -> int | None:
        """Number of examples of a mini-batch; None: all are used."""
        if not keyed or self.batch_size is None or self.batch_size >= len(self.features):
            return None
        return self.batch_size

    def fits(self, x: Tensor) -> bool:
        """Whether x is of the kind that the kernels take, and nobody has written to the labels."""
        return (
            self.labels._version == self.version
            and x.dtype == self.network.dtype
            and x.device.type == "cpu"
            and x.shape[-1:] == (self.network.dimension,)
        )

    def value_and_gradient(self, x: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """f_i(x) and its gradient; see `Objective.value_and_gradient`."""
        values, gradients = dense_gradients([self], x, key)
        return values[0], gradients[0]

    def value(self, x: Tensor) -> Tensor:
        """f_i(x) over all examples: shape ()."""
        return dense_values([self], x)[0]

    def at_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient at x (d,) on some rows (B,); see `Objective.at_rows`."""
        gradient = x.new_empty(x.shape)
        chosen = rows.numpy()
        features, targets = self.features[chosen], self.targets[chosen]
        block = Block(slice(0, 1), self, features[None], targets[None], None)
        point = x.detach().contiguous().numpy()
        found = evaluate(block, point[None], gradient.numpy()[None])
        return torch.from_numpy(found)[0], gradient

    def scored(self, x: Tensor, work: Callable[[Callable[[Tensor], Tensor]], _Result]) -> _Result:
        """What ``work`` makes of the scores (B, K) of features (B, ...) under x (d,)."""
        points = x.detach().contiguous().numpy()[None]

        def scores_of(features: Tensor) -> Tensor:
            rows = features.detach().reshape(1, len(features), -1).numpy()
            return torch.from_numpy(scores(self.network, points, rows)[0])

        return work(scores_of)


def dense_gradients(
    clients: Sequence[DenseClient], x: Tensor, keys: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Values (C,) and gradients (C, d) of clients whose networks are of one kind.

    Parameters
    ----------
    clients : sequence of DenseClient
        C of them.
    x : Tensor
        Shape (d,), one point for all, or (C, d).
    keys : Tensor or None
        int64, shape (C,): the streams of the mini-batches; None: full gradients.
    """
    gradients = x.new_empty((len(clients), x.shape[-1]))
    return _collected(clients, x, keys, gradients), gradients


def dense_values(clients: Sequence[DenseClient], x: Tensor) -> Tensor:
    """Values (C,) over all examples of clients whose networks are of one kind."""
    return _collected(clients, x, None, None)


def _collected(
    clients: Sequence[DenseClient], x: Tensor, keys: Tensor | None, gradients: Tensor | None
) -> Tensor:
    values = x.new_empty(len(clients))
    points = x.detach().contiguous().numpy()
    given, slopes = values.numpy(), None if gradients is None else gradients.numpy()
    for block in _blocks(clients, keys, points.shape[-1]):
        places = block.places
        own = points[None] if points.ndim == 1 else points[places]
        if slopes is None or isinstance(places, slice):
            given[places] = evaluate(block, own, None if slopes is None else slopes[places])
        else:
            part = np.empty((len(places), slopes.shape[1]), dtype=slopes.dtype)
            given[places] = evaluate(block, own, part)
            slopes[places] = part
    return values


def _blocks(clients: Sequence[DenseClient], keys: Tensor | None, dimension: int) -> Iterator[Block]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, one in enumerate(clients):
        size = one.drawn(keys is not None)
        settings = len(one.features), size, one.l2, one.chunk_size if size is None else None
        groups.setdefault(settings, []).append(place)
    for places in groups.values():
        like = clients[places[0]]
        size = like.drawn(keys is not None)
        draws = None
        if keys is not None and size is not None:
            draws = sample_without_replacement(
                keys if len(places) == len(keys) else keys[places], len(like.features), size
            ).numpy()
        length = _block_length(like, size, dimension)
        for start in range(0, len(places), length):
            chosen = places[start : start + length]
            some = None if draws is None else draws[start : start + length]
            yield _side_by_side(chosen, [clients[place] for place in chosen], some)


def _block_length(like: DenseClient, size: int | None, dimension: int) -> int:
    examples: int = (len(like.features) if size is None else size) * like.features[0].nbytes
    if size is None and examples > _COPIED_BYTES:
        return 1
    models = 2 * dimension * like.features.itemsize
    return max(1, _BLOCK_BYTES // (examples + models))


def _side_by_side(
    places: list[int], clients: Sequence[DenseClient], draws: Numbers | None
) -> Block:
    like = clients[0]
    in_order = places[-1] - places[0] == len(places) - 1
    where = slice(places[0], places[-1] + 1) if in_order else np.array(places)
    if draws is None and len(clients) == 1:
        return Block(where, like, like.features[None], like.targets[None], like.chunk_size)
    count = len(like.features) if draws is None else draws.shape[1]
    features = np.empty((len(clients), count, *like.features.shape[1:]), like.features.dtype)
    targets = np.empty((len(clients), count, *like.targets.shape[1:]), like.targets.dtype)
    for row, one in enumerate(clients):
        if draws is None:
            features[row], targets[row] = one.features, one.targets
        else:
            # "clip" does not copy twice; draws are never outside.
            np.take(one.features, draws[row], axis=0, out=features[row], mode="clip")
            np.take(one.targets, draws[row], axis=0, out=targets[row], mode="clip")
    chunk = like.chunk_size if draws is None else None
    return Block(where, like, features, targets, chunk)
