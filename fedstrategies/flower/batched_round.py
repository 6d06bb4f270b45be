"""An attempt for all clients in one call: the in-process fast path."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.app import MetricRecord
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower.attempt import Attempt
from fedstrategies.flower.contract import Assignment, CohortSession, Delivery
from fedstrategies.flower.control import Request, Response
from fedstrategies.wire import encoded_sizes

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["BatchedRound"]


class BatchedRound(Attempt):
    """An attempt for all clients in one call, with the bytes it would have sent.

    Parameters
    ----------
    strategy : BaseStrategy
        Whose copy of the memories is the memory itself.
    session : CohortSession
        The grid's clients.
    """

    def __init__(self, strategy: BaseStrategy, round: int, session: CohortSession) -> None:
        super().__init__(strategy, round)
        strategy.ledger.open_attempt([])
        self.session = session
        self._losses: list[Tensor] = []
        self._deliveries: list[Delivery] = []

    def step(self) -> list[Delivery]:
        """Every client's message, and the byte counters that go with it."""
        strategy, objective = self.strategy, self.session.objective
        assert strategy.memory is not None
        for assignment in self.plan:
            rows = assignment.partition_ids
            everyone = len(rows) == strategy.clients
            payload, losses = assignment.rule.step(
                strategy.memory,
                self.sent(assignment),
                objective,
                self.keys(assignment),
                clients=None if everyone else rows,
            )
            self._count(assignment, payload)
            rows, payload, losses = self._drop_non_finite(rows, payload, losses)
            if len(rows):
                self._losses.append(losses)
                self._deliveries.append(
                    Delivery(assignment=assignment, partition_ids=rows, payload=payload)
                )
        return self._deliveries

    def _count(self, assignment: Assignment, payload: Payload) -> None:
        count = len(assignment.partition_ids)
        frames = self.frames(assignment) if assignment.parts else ()
        sent = self.sent(assignment)
        frame = _frame_size(sent.numel(), sent.dtype)
        model = sum(int(encoded_sizes(part)) for part in frames) or frame
        request = model + Request.size(assignment.constants_of(0), assignment.spec)
        self.strategy.bytes.downlink += count * request + len(assignment.settlements) * frame
        self.strategy.bytes.uplink += int(encoded_sizes(payload).sum()) + count * Response.SIZE

    def _drop_non_finite(
        self, rows: Tensor, payload: Payload, losses: Tensor
    ) -> tuple[Tensor, Payload, Tensor]:
        """What the wire would refuse is a failure here too."""
        if payload.is_finite():
            return rows, payload, losses
        finite = torch.isfinite(payload.values.to_tensor()).all(dim=1)
        reason = "its upload is not finite"
        for partition in rows[~finite].tolist():
            self.failures.append(f"partition {partition}: {reason}")
            self.faulty[partition] = reason
        return rows[finite], payload.rows(finite), losses[finite]

    def record_receipts(self) -> None:
        """Tell the ledger which uploads were used."""
        for delivery in self._deliveries:
            self.strategy.ledger.commit_batch(delivery.partition_ids)

    def metrics(self) -> MetricRecord:
        """The weighted mean loss, summed in partition order as the message path does."""
        rows = np.concatenate([delivery.partition_ids.numpy() for delivery in self._deliveries])
        losses = np.concatenate([losses.numpy() for losses in self._losses])
        if len(self._deliveries) > 1:
            order = rows.argsort()
            rows, losses = rows[order], losses[order]
        weights = self.session.objective.num_examples.numpy()[rows].astype(np.float64)
        return MetricRecord({"loss": float(np.cumsum(losses * (weights / weights.sum()))[-1])})


@lru_cache(maxsize=16)
def _frame_size(dimension: int, dtype: torch.dtype) -> int:
    """Bytes of the model's frame."""
    dense = Floats(torch.zeros((1, dimension), dtype=dtype))
    return int(encoded_sizes(Payload(dimension=dimension, values=dense)))
