"""An attempt for all clients in one call: the in-process fast path."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from flwr.app import MetricRecord
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower.attempt import Attempt
from fedstrategies.flower.contract import Assignment, Delivery
from fedstrategies.flower.control import Request, Response
from fedstrategies.flower.ledger import SPENT
from fedstrategies.flower.sessions import CohortSession, StepRequest
from fedstrategies.privacy import BudgetSpent
from fedstrategies.wire import encoded_size

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["BatchedRound"]

_Step: TypeAlias = tuple[Tensor, Payload, Tensor]
"""Partition ids, their messages and their losses."""


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
        self._payers = session.payers
        self._losses: list[Tensor] = []
        self._deliveries: list[Delivery] = []

    def step(self) -> list[Delivery]:
        """Every client's message, and the byte counters that go with it."""
        requests = [self._request(a, a.partition_ids) for a in self.plan]
        if not self._payers:
            self.session.announce(requests)
        for assignment, request in zip(self.plan, requests, strict=True):
            self._count_requests(assignment)
            found = self._solvent(assignment) if self._payers else self._run(request)
            self._count_replies(assignment.partition_ids, found)
            if found is None:
                continue
            rows, payload, losses = self._drop_non_finite(*found)
            rows, payload, losses = self._drop_too_large(assignment, rows, payload, losses)
            edition = self.edition_of(assignment)
            if self.strategy.broadcast is not None and edition is not None:
                self.strategy.broadcast.confirm(rows.tolist(), edition)
            if len(rows):
                self._losses.append(losses)
                self._deliveries.append(
                    Delivery(assignment=assignment, partition_ids=rows, payload=payload)
                )
        return self._deliveries

    def _run(self, request: StepRequest) -> _Step:
        """Messages and losses of some of an assignment's clients."""
        memory = self.strategy.memory
        assert memory is not None
        payload, losses = self.session.step(
            request.rule, memory, request.x, request.keys, clients=request.clients
        )
        return request.clients, payload, losses

    def _request(self, assignment: Assignment, rows: Tensor) -> StepRequest:
        keys = self.keys(assignment)
        if len(rows) < len(keys):
            keys = keys[torch.isin(assignment.partition_ids, rows)]
        return StepRequest(rule=assignment.rule, x=self.sent(assignment), keys=keys, clients=rows)

    def _solvent(self, assignment: Assignment) -> _Step | None:
        """The same of those whose privacy budgets last for all of their local steps.

        Where one ends half-way, its charges stand and the others begin again from their old
        ledgers: the same counts at the same points give the same releases, so they are made, and
        charged, once.
        """
        payers, rows = self._payers, assignment.partition_ids
        while True:
            broke = torch.tensor([payers[row].spent for row in rows.tolist()], dtype=torch.bool)
            for partition in rows[broke].tolist():
                self.failures.append(f"partition {partition}: {SPENT}")
                self.faulty[partition] = SPENT
                self.spent.add(partition)
            rows = rows[~broke]
            if not len(rows):
                return None
            before = [payers[row].ledger for row in rows.tolist()]
            try:
                return self._run(self._request(assignment, rows))
            except BudgetSpent:
                for row, ledger in zip(rows.tolist(), before, strict=True):
                    if not payers[row].spent:
                        payers[row].ledger = ledger

    def _count_requests(self, assignment: Assignment) -> None:
        count = len(assignment.partition_ids)
        frames = self.frames(assignment) if assignment.parts else ()
        sent = self.sent(assignment)
        frame = _frame_size(sent.numel(), sent.dtype)
        model = count * (sum(map(encoded_size, frames)) or frame)
        broadcast, edition = self.strategy.broadcast, self.edition_of(assignment)
        if broadcast is not None and edition is not None:
            model, repairs = broadcast.sizes(assignment.partition_ids, edition)
            self.strategy.bytes.recovery += repairs
        request = Request.size(assignment.constants_of(0), assignment.spec)
        self.strategy.bytes.downlink += model + count * request
        self.strategy.bytes.downlink += len(assignment.settlements) * frame
        accounts = self.strategy.accounts
        if accounts.private:
            told = (accounts.account(row).to_bytes() for row in assignment.partition_ids.tolist())
            self.strategy.bytes.downlink += sum(map(len, told))

    def _count_replies(self, asked: Tensor, found: _Step | None) -> None:
        counters = self.strategy.bytes
        counters.uplink += len(asked) * Response.SIZE
        if found is not None:
            counters.uplink += encoded_size(found[1])
        for row in asked.tolist() if self._payers else ():
            ledger = self._payers[row].ledger
            counters.uplink += len(ledger.to_bytes())
            self.strategy.accounts.heard(row, ledger, up_to=self.strategy.ledger.sequence)

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

    def _drop_too_large(
        self, assignment: Assignment, rows: Tensor, payload: Payload, losses: Tensor
    ) -> _Step:
        """So is what ``max_update_norm`` does not allow."""
        excesses = self.excesses(assignment, payload)
        if not any(excesses):
            return rows, payload, losses
        for partition, excess in zip(rows.tolist(), excesses, strict=True):
            if excess:
                self.failures.append(f"partition {partition}: {excess}")
                self.faulty[partition] = excess
        kept = torch.tensor([not excess for excess in excesses])
        return rows[kept], payload.rows(kept), losses[kept]

    def settle(self, settlement: Tensor) -> None:
        """Tell the ledger and the clients which uploads were used."""
        for delivery in self._deliveries:
            self.strategy.ledger.commit_batch(delivery.partition_ids)
        self.session.settle(self._deliveries, settlement)

    def metrics(self) -> MetricRecord:
        """The weighted mean loss, summed in partition order as the message path does.

        Without the losses that are not released.
        """
        rows, losses = self._deliveries[0].partition_ids.numpy(), self._losses[0].numpy()
        if len(self._deliveries) > 1:
            rows = np.concatenate([delivery.partition_ids.numpy() for delivery in self._deliveries])
            losses = np.concatenate([losses.numpy() for losses in self._losses])
            order = rows.argsort()
            rows, losses = rows[order], losses[order]
        secret = np.isnan(losses)
        if secret.any():
            rows, losses = rows[~secret], losses[~secret]
        if not len(losses):
            return MetricRecord()
        weights = self.session.num_examples.numpy()[rows].astype(np.float64)
        return MetricRecord({"loss": float(np.cumsum(losses * (weights / weights.sum()))[-1])})


@lru_cache(maxsize=16)
def _frame_size(dimension: int, dtype: torch.dtype) -> int:
    """Bytes of the model's frame."""
    dense = Floats(torch.zeros((1, dimension), dtype=dtype))
    return encoded_size(Payload(dimension=dimension, values=dense))
