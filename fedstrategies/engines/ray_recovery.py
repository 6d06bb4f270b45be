"""What it costs to give clients of actors their state again."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower import BaseStrategy
from fedstrategies.wire import encoded_size

__all__ = ["recovery_size"]


def recovery_size(strategy: BaseStrategy, lost: Tensor) -> int:
    """Bytes that clients are sent again because they have lost their state.

    That is the memory of everyone who has one other than a newborn's and, where the downlink is
    compressed, the version of the model that each is known to hold: dense frames.

    Parameters
    ----------
    strategy : BaseStrategy
        Whose copies they are sent.
    lost : Tensor
        int64: their partitions.
    """
    assert strategy.memory is not None
    known = int(strategy.ledger.has_accepted()[lost.numpy()].sum())
    size = sum(known * _frame_size(value) for value in strategy.memory.values())
    if strategy.broadcast is not None and len(lost):
        for members, replica in strategy.broadcast.replicas(strategy.ledger.session):
            holders = int(torch.isin(torch.from_numpy(members), lost).sum())
            size += holders * _frame_size(replica.w[None])
    return size


def _frame_size(vectors: Tensor) -> int:
    """Bytes of one of them as a dense frame."""
    return encoded_size(Payload(dimension=vectors.shape[1], values=Floats(vectors[:1])))
