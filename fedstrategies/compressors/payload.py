"""What a compressor produces: a batch of C messages, still as tensors.

A message is an index set and coded values. How they become bytes is the wire's business
(`fedstrategies.wire`); what they are for is the algorithm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedstrategies.compressors.values import Levels, Rounded, Values, stack_values
from fedstrategies.reduce import sum_over_clients, sum_sparse_over_clients

__all__ = ["Payload"]

_AT_A_TIME = 2**20
"""Entries that are scaled at a time when messages are added to vectors."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """C compressed vectors of one dimension.

    Attributes
    ----------
    dimension : int
        d.
    values : Values
        Coded values, C x k.
    indices : Tensor or None
        int64, shape (C, k), ascending within a row; None: all d coordinates in order.
    keys : Tensor or None
        int64, shape (C,). If given, ``indices`` equals
        ``sample_without_replacement(keys, dimension, k)``, so that 8 bytes carry the set.
    """

    dimension: int
    values: Values
    indices: Tensor | None = None
    keys: Tensor | None = None

    def __len__(self) -> int:
        """C, the number of messages."""
        values = self.values
        return len(values.levels if isinstance(values, Levels) else values.data)

    @property
    def kind(self) -> tuple[object, ...]:
        """What two payloads must share to be messages of one operator."""
        values = self.values
        width = values.levels.shape[1] if isinstance(values, Levels) else values.data.shape[1]
        dtype = values.scale.dtype if isinstance(values, Levels) else values.data.dtype
        return (
            self.dimension,
            width,
            type(values).__name__,
            str(dtype),
            values.steps if isinstance(values, Levels) else None,
            str(values.dtype) if isinstance(values, Rounded) else None,
            "all" if self.indices is None else "some",
        )

    def dense(self) -> Tensor:
        """The compressed vectors, shape (C, d)."""
        values = self.values.to_tensor()
        if self.indices is None:
            return values
        out = torch.zeros((len(values), self.dimension), dtype=values.dtype, device=values.device)
        return out.scatter_(1, self.indices, values)

    def add_to_(
        self, vectors: Tensor, coefficient: float, *, clients: Tensor | None = None
    ) -> None:
        """In place: ``vectors[i] <- vectors[i] + (coefficient * C(x_i))``.

        Two operations, never fused, and the same on client and server, so that both hold the
        same bits. Only the coordinates that were sent are touched.

        Parameters
        ----------
        vectors : Tensor
            Shape (n, d), changed in place.
        coefficient : float
            Factor of the message.
        clients : Tensor or None
            int64, shape (C,): the row of each message; None: message i goes to row i.
        """
        width = self.dimension if self.indices is None else self.indices.shape[1]
        together = max(1, _AT_A_TIME // max(1, width))
        if len(self) > together:
            for start in range(0, len(self), together):
                chunk = slice(start, start + together)
                self.rows(chunk).add_to_(
                    vectors[chunk] if clients is None else vectors,
                    coefficient,
                    clients=None if clients is None else clients[chunk],
                )
            return
        scaled = coefficient * self.values.to_tensor()
        if self.indices is not None:
            _add_entries_(vectors, clients, self.indices, scaled)
        elif clients is None:
            torch.add(vectors, scaled, out=vectors)
        else:
            vectors[clients] = vectors[clients] + scaled

    def total(self, partition_ids: Tensor) -> Tensor:
        """Sum of the C compressed vectors, shape (d,), in the order of `fedstrategies.reduce`.

        Parameters
        ----------
        partition_ids : Tensor
            int64, shape (C,), strictly ascending.
        """
        values = self.values.to_tensor()
        if self.indices is None:
            return sum_over_clients(values, partition_ids)
        return sum_sparse_over_clients(self.indices, values, self.dimension, partition_ids)

    def rows(self, selection: Tensor | slice) -> Payload:
        """The messages of some clients."""
        return replace(
            self,
            values=self.values.rows(selection),
            indices=None if self.indices is None else self.indices[selection],
            keys=None if self.keys is None else self.keys[selection],
        )

    def cpu(self) -> Payload:
        """The messages on the CPU: of a compressed one k items move, never d."""
        parts = {one.name: getattr(self.values, one.name) for one in fields(self.values)}
        moved: dict[str, Any] = {
            name: part.cpu() for name, part in parts.items() if isinstance(part, Tensor)
        }
        return replace(
            self,
            values=replace(self.values, **moved),
            indices=None if self.indices is None else self.indices.cpu(),
            keys=None if self.keys is None else self.keys.cpu(),
        )

    def is_finite(self) -> bool:
        """Whether every value is a finite number."""
        values = self.values.to_tensor()
        # Of bfloat16 numpy has none.
        if values.device.type != "cpu" or values.dtype == torch.bfloat16:
            return bool(torch.isfinite(values).all())
        return bool(np.isfinite(values.numpy()).all())

    @staticmethod
    def stack(parts: Sequence[Payload]) -> Payload:
        """One payload from several of the same kind and size, in order.

        Raises
        ------
        ValueError
            If they differ in dimension, value coding or number of values.
        """
        first = parts[0]
        same = {p.kind for p in parts}
        if len(same) > 1:
            raise ValueError("payloads of different kinds cannot be stacked")
        return Payload(
            dimension=first.dimension,
            values=stack_values([p.values for p in parts]),
            indices=None
            if first.indices is None
            else torch.cat([p.indices for p in parts if p.indices is not None]),
            keys=None
            if any(p.keys is None for p in parts)
            else torch.cat([p.keys for p in parts if p.keys is not None]),
        )


def _add_entries_(vectors: Tensor, clients: Tensor | None, indices: Tensor, values: Tensor) -> None:
    """In place: add (C, k) values to the entries of C different rows (None: the first C)."""
    if vectors.device.type != "cpu" or not vectors.is_contiguous():
        rows = torch.arange(len(indices), device=indices.device) if clients is None else clients
        places = rows.unsqueeze(1), indices
        vectors[places] = vectors[places] + values
        return
    rows_ = np.arange(len(indices)) if clients is None else clients.numpy()
    flat = (vectors.shape[1] * rows_)[:, None] + indices.numpy()
    # numpy reads and writes scattered entries several times as fast as torch.
    vectors.numpy().reshape(-1)[flat.reshape(-1)] += values.numpy().reshape(-1)
