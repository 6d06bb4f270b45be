"""The uploads of a round of FedP3, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.compressors import Floats
from fedstrategies.fedp3.algorithm import FedP3Rule
from fedstrategies.flower import Delivery
from fedstrategies.pruning import LayerGroups

__all__ = ["Collected", "collect"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """What C clients sent.

    Attributes
    ----------
    rows : Tensor
        W_i, shape (C, d); left as memory was where a client sent nothing.
    sent : Tensor
        bool, shape (C, G): which groups each client sent.
    told : Tensor
        What they told of activations, shape (C, S); S = 0: nothing.
    partition_ids : Tensor
        int64, shape (C,).
    """

    rows: Tensor
    sent: Tensor
    told: Tensor
    partition_ids: Tensor


def collect(
    x: Tensor,
    deliveries: Sequence[Delivery],
    groups: LayerGroups,
    *,
    clip: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Collected:
    """The uploads as rows of models.

    Parameters
    ----------
    x : Tensor
        The server's model, shape (d,).
    deliveries : sequence of Delivery
        At least one; their rules are `FedP3Rule`.
    groups : LayerGroups
        Of the model.
    clip : callable or None
        ``clip(models, origin)``: what is used in the place of uploads of models (C', k) that
        began at ``origin`` (k,). None: they as they are.
    """
    count = sum(len(delivery.partition_ids) for delivery in deliveries)
    # Left as it is where nothing was sent: nobody reads it, and its pages cost nothing.
    rows = x.new_empty((count, len(x)))
    sent = torch.zeros((count, len(groups)), dtype=torch.bool)
    start, told = 0, []
    for delivery in deliveries:
        rule, values = delivery.assignment.rule, delivery.payload.values
        assert isinstance(rule, FedP3Rule)
        assert isinstance(values, Floats)
        stop = start + len(delivery.partition_ids)
        sent[start:stop] = torch.tensor(rule.downlink.assigned)
        models = values.data
        if clip is not None:
            models = clip(models, x[rule.downlink.own])
        first = 0
        for part in rule.downlink.own_slices:
            last = first + part.stop - part.start
            rows[start:stop, part] = models[:, first:last]
            first = last
        told.append(models[:, first:])
        start = stop
    ids = torch.cat([delivery.partition_ids for delivery in deliveries])
    return Collected(rows=rows, sent=sent, told=torch.cat(told), partition_ids=ids)
