"""The in-process fast path, and how state returns to the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from flwr.app import RecordDict
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.engines.execution import Execution
from fedstrategies.engines.handover import Handover
from fedstrategies.flower import BaseStrategy, ClientRule, Delivery
from fedstrategies.flower.receipts import Receipts
from fedstrategies.flower.records import replica_records, save_state
from fedstrategies.flower.sessions import StepRequest
from fedstrategies.flower.spending import payers_of, recall, save_spending
from fedstrategies.privacy import PrivateObjective
from fedstrategies.threads import single_threaded

if TYPE_CHECKING:
    from fedstrategies.engines.cohort import CohortGrid

__all__ = ["InProcessSession"]


class InProcessSession:
    """All clients of a `CohortGrid` while the strategy's copy of the memories is the memory.

    Parameters
    ----------
    grid : CohortGrid
        Whose nodes get their state back by `flush`.
    strategy : BaseStrategy
        Whose copies of the clients' ledgers they take note of.
    """

    def __init__(self, grid: CohortGrid, strategy: BaseStrategy) -> None:
        self._grid = grid
        self._execution = Execution(workers=grid.workers)
        with ExitStack() as threads:
            threads.enter_context(single_threaded())
            for index, context in enumerate(grid.receipts.values()):
                private = grid.clients[index].private
                if private is not None:
                    # Messages may have run since the clients were built.
                    recall(context.state, private, strategy.accounts.account(index))
            self._threads = threads.pop_all()

    @property
    def num_examples(self) -> Tensor:
        """m_i in partition order: int64, shape (n,)."""
        return self._grid.objective.num_examples

    @cached_property
    def payers(self) -> tuple[PrivateObjective, ...]:
        """Where the clients' releases are charged; empty: nowhere."""
        return payers_of(self._grid.objective)

    def announce(self, steps: Sequence[StepRequest]) -> None:
        """Nothing to do: this process steps when it is asked."""

    def step(
        self,
        rule: ClientRule,
        memory: Mapping[str, Tensor],
        x: Tensor,
        keys: Tensor,
        *,
        clients: Tensor,
    ) -> tuple[Payload, Tensor]:
        """Messages and losses of some clients; see `CohortSession.step`."""
        return self._execution.run(rule, memory, x, self._grid.objective, keys, clients=clients)

    def settle(self, deliveries: Sequence[Delivery], settlement: Tensor) -> None:
        """Nothing to do: the strategy's copy of the memories, which it committed, is the memory."""

    def flush(self, strategy: BaseStrategy) -> None:
        """Write each node's memory and receipt into its context, and what it has spent."""
        assert strategy.memory is not None
        known = strategy.ledger.has_accepted()
        seen = (strategy.ledger.session, strategy.ledger.sequence)
        for index, context in enumerate(self._grid.receipts.values()):
            private = self._grid.clients[index].private
            if private is not None and private.ledger.releases:
                state = RecordDict(dict(context.state))
                recall(state, private)
                save_spending(state, private)
                context.state = state
            if not known[index]:
                continue
            state = RecordDict(dict(context.state))
            receipts = Receipts(committed=strategy.ledger.accepted(index), seen=seen)
            # Rows of large memories follow when the node is looked at.
            save_state(state, receipts, None if strategy.memory else {})
            context.state = state
        if strategy.memory:
            self._grid.owe(Handover(strategy.memory, strategy.ledger, known.nonzero()[0].tolist()))
        self._flush_replicas(strategy)

    def _flush_replicas(self, strategy: BaseStrategy) -> None:
        """Where the downlink is compressed: the version of the model that each node holds."""
        if strategy.broadcast is None:
            return
        contexts = list(self._grid.receipts.values())
        for members, replica in strategy.broadcast.replicas(strategy.ledger.session):
            records = replica_records(replica) if len(members) else {}
            for index in members.tolist():
                state = RecordDict(dict(contexts[index].state))
                state.update(records)
                contexts[index].state = state

    def close(self, strategy: BaseStrategy) -> None:
        """Flush and give the threads back, which is done whatever becomes of the flush."""
        with self._threads:
            self._execution.close()
            self.flush(strategy)
