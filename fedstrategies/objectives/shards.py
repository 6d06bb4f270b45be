"""Ragged shards as a few rectangular blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fedstrategies.objectives.logistic_kernels import Block

__all__ = ["Shards", "padded_size"]

# Clients are taken in chunks of at most this many bytes of rows, so that the backward product
# finds in a shared cache what the forward product has read, and temporaries stay small. Chunks
# for a core's own cache pay more in calls than they save (8124 rows of 112 for 1,000 clients:
# 1.7 ms with chunks of 1 MiB, 0.9 ms with 8 MiB or more).
_CHUNK_BYTES = 8 * 2**20
_KEPT_SHARE = 4
"""The rows of the last cohort are kept if it is at most this fraction (one in ..) of the clients:
gathering them costs as much as the gradient."""
_EXACT_UP_TO = 16
_STEPS_PER_OCTAVE = 8


def padded_size(size: int) -> int:
    """The number of rows a shard of ``size`` rows is padded to, a function of it alone.

    Exact up to 16 rows, then eight sizes an octave: at most 1/8 more rows and at most eight
    blocks for each doubling, however ragged the shards are. As it does not depend on the other
    clients, neither do the bits of a client's result.
    """
    if size <= _EXACT_UP_TO:
        return size
    step = 1 << (size.bit_length() - 1 - (_STEPS_PER_OCTAVE.bit_length() - 1))
    return -(-size // step) * step


Selection: TypeAlias = tuple[tuple[Tensor | slice, Block], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bucket:
    clients: Tensor
    block: Block


class Shards:
    """The rows of n clients, those of equal padded size side by side.

    Parameters
    ----------
    features : sequence of Tensor
        Shape (m_i, d) each, of one dtype and device.
    labels : sequence of Tensor
        Shape (m_i,) each: -1 or +1.
    """

    def __init__(self, features: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        self._like = features[0][:0]
        self.sizes = torch.tensor([len(rows) for rows in features])
        grouped: dict[int, list[int]] = {}
        for client, size in enumerate(self.sizes.tolist()):
            grouped.setdefault(padded_size(size), []).append(client)
        self._bucket_of = torch.empty(len(features), dtype=torch.int64)
        self._position = torch.empty(len(features), dtype=torch.int64)
        self._buckets = []
        for number, (height, members) in enumerate(sorted(grouped.items())):
            clients = torch.tensor(members)
            self._bucket_of[clients] = number
            self._position[clients] = torch.arange(len(members))
            block = self._fill(height, [features[i] for i in members], [labels[i] for i in members])
            self._buckets.append(_Bucket(clients=clients, block=block))
        # The usual call is for everyone: slicing its blocks afresh took a tenth of its time.
        self._everyone = tuple(self._chunks(None))
        self._lately: tuple[Tensor, Selection] | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def dimension(self) -> int:
        """d, the number of features."""
        return self._like.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the rows."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._like.device

    def blocks(self, clients: Tensor | None = None) -> Iterator[tuple[Tensor | slice, Block]]:
        """Blocks that together hold the selected clients, small enough for the cache.

        Parameters
        ----------
        clients : Tensor, optional
            int64 client positions, ascending; None: all.

        Returns
        -------
        iterator of (Tensor or slice, Block)
            Where the block's clients stand in the selection, and their rows.
        """
        if clients is None:
            return iter(self._everyone)
        if len(clients) * _KEPT_SHARE > len(self):
            return self._chunks(clients)
        # A small cohort is asked for again: in its next local step or inner round.
        # One tuple, replaced as a whole: another thread's cohort cannot get in between.
        lately = self._lately
        if lately is None or not torch.equal(lately[0], clients):
            lately = clients.clone(), tuple(self._chunks(clients))
            self._lately = lately
        return iter(lately[1])

    def _chunks(self, clients: Tensor | None) -> Iterator[tuple[Tensor | slice, Block]]:
        for number, bucket in enumerate(self._buckets):
            if clients is None:
                places, positions = bucket.clients, None
            else:
                places = (self._bucket_of[clients] == number).nonzero().squeeze(1)
                positions = self._position[clients[places]]
                if len(positions) == len(bucket.clients):
                    positions = None
            per_chunk = self._chunk_length(bucket.block.rows.shape[1])
            for start in range(0, len(places), per_chunk):
                chunk = slice(start, start + per_chunk)
                yield (
                    _as_slice(places[chunk]),
                    bucket.block.select(chunk if positions is None else positions[chunk]),
                )

    def drawn(self, clients: Tensor, draws: Tensor) -> Iterator[tuple[slice, Block]]:
        """Blocks of some rows of clients that have equally many.

        Parameters
        ----------
        clients : Tensor
            int64, shape (C',): clients of one size m_i.
        draws : Tensor
            int64, shape (C', B): row numbers below m_i.

        Yields
        ------
        tuple of (slice, Block)
            Which of ``clients``, and their drawn rows.
        """
        if not len(clients):
            return
        block = self._buckets[int(self._bucket_of[clients[0]])].block
        positions = self._position[clients].unsqueeze(1)
        height = draws.shape[1]
        per_chunk = self._chunk_length(height)
        for start in range(0, len(clients), per_chunk):
            chunk = slice(start, start + per_chunk)
            where = positions[chunk], draws[chunk]
            rows = block.rows[where]
            yield (
                chunk,
                Block(
                    rows=rows,
                    labels=block.labels[where],
                    sizes=torch.full_like(rows[:, :1, 0], height),
                    padded=False,
                ),
            )

    def _chunk_length(self, height: int) -> int:
        if self.device.type != "cpu":
            return len(self)
        return max(1, _CHUNK_BYTES // (height * self.dimension * self._like.element_size() or 1))

    def _fill(self, height: int, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Block:
        rows = self._like.new_zeros((len(features), height, self.dimension))
        signs = self._like.new_zeros((len(features), height))
        for client, (own_rows, own_labels) in enumerate(zip(features, labels, strict=True)):
            signs[client, : len(own_labels)] = own_labels
            torch.mul(
                own_rows, -own_labels.to(rows.dtype).unsqueeze(1), out=rows[client, : len(own_rows)]
            )
        sizes = signs.abs().sum(dim=1, keepdim=True)
        return Block(rows=rows, labels=signs, sizes=sizes, padded=bool((sizes < height).any()))


def _as_slice(places: Tensor) -> Tensor | slice:
    """A run of neighbours as a slice: writing through it needs no copy."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first == len(places) - 1 else places
