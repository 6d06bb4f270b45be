"""The in-process fast path: when it may be taken, and how state returns to the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from flwr.app import RecordDict
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower import BaseClient, BaseStrategy, ClientRule, Delivery, FedApp
from fedstrategies.flower.metrics import weighted_mean
from fedstrategies.flower.receipts import Receipts
from fedstrategies.flower.records import load_receipts, save_state
from fedstrategies.flower.spending import knows, payer_of, payers_of, recall, save_spending
from fedstrategies.privacy import PrivateObjective
from fedstrategies.threads import single_threaded

if TYPE_CHECKING:
    from fedstrategies.engines.cohort import CohortGrid

__all__ = ["InProcessSession", "reason_against"]

_SHELL_METHODS = ("configure_train", "aggregate_train", "commit", "advance")
_CLIENT_METHODS = ("train", "fit")
_GRID_METHODS = ("send_and_receive", "push_messages", "pull_messages", "execute")


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
        self._threads = ExitStack()
        self._threads.enter_context(single_threaded())
        for index, context in enumerate(grid.contexts.values()):
            private = grid.clients[index].private
            if private is not None:
                # Messages may have run since the clients were built.
                recall(context.state, private, strategy.accounts.account(index))

    @property
    def num_examples(self) -> Tensor:
        """m_i in partition order: int64, shape (n,)."""
        return self._grid.objective.num_examples

    @cached_property
    def payers(self) -> tuple[PrivateObjective, ...]:
        """Where the clients' releases are charged; empty: nowhere."""
        return payers_of(self._grid.objective)

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
        objective = self._grid.objective
        rows = None if len(clients) == len(objective) else clients
        return rule.step(memory, x, objective, keys, clients=rows)

    def settle(self, deliveries: Sequence[Delivery], settlement: Tensor) -> None:
        """Nothing to do: the strategy's copy of the memories, which it committed, is the memory."""

    def flush(self, strategy: BaseStrategy) -> None:
        """Write each node's memory and receipt into its context, and what it has spent."""
        assert strategy.memory is not None
        known = strategy.ledger.has_accepted()
        seen = (strategy.ledger.session, strategy.ledger.sequence)
        for index, context in enumerate(self._grid.contexts.values()):
            private = self._grid.clients[index].private
            if private is not None and private.ledger.releases:
                state = RecordDict(dict(context.state))
                recall(state, private)
                save_spending(state, private)
                context.state = state
            if not known[index]:
                continue
            state = RecordDict(dict(context.state))
            memory = {name: value[index : index + 1] for name, value in strategy.memory.items()}
            receipts = Receipts(committed=strategy.ledger.accepted(index), seen=seen)
            save_state(state, receipts, memory)
            context.state = state

    def close(self, strategy: BaseStrategy) -> None:
        """Flush and give the threads back."""
        self.flush(strategy)
        self._threads.close()


def reason_against(
    grid: CohortGrid, strategy: BaseStrategy, grid_class: type[CohortGrid]
) -> str | None:
    """Why running without messages would skip something of the user's; None if it would not.

    ``grid_class`` is the class whose own methods may be skipped: a subclass's may not.
    """
    if not isinstance(grid.app, FedApp):
        return "the app is not from fedstrategies.client_app"
    if grid.app.mods:
        return "the app has mods, which see messages"
    changed = _overridden(type(strategy), BaseStrategy, _SHELL_METHODS)
    if changed:
        return f"the strategy overrides {changed}"
    changed = _overridden(type(grid), grid_class, _GRID_METHODS)
    if changed:
        return f"the grid overrides {changed}"
    if strategy.memory is None:
        return "the clients' memories exceed memory_budget"
    if strategy.train_metrics_aggr_fn is not weighted_mean:
        return "train_metrics_aggr_fn is the user's and sees replies"
    if strategy.weighted_by_key != "num-examples":
        return "weighted_by_key names a metric that only replies carry"
    asked = [
        ((assignment.constants_of(0), assignment.spec), assignment.rule_of(0))
        for assignment in strategy.plan(strategy.round + 1)
    ]
    for index, client in enumerate(grid.clients):
        overridden = _overridden(type(client), BaseClient, _CLIENT_METHODS)
        if overridden:
            return f"client {index} overrides {overridden}"
        if client.payer is not payer_of(client.objective):
            return f"client {index} hides its messages itself"
        for (constants, spec), rule in asked:
            # What one client is told must mean the same to all of them.
            own = client.rule(constants, spec)
            if own != rule:
                return f"the rule of client {index} differs from the strategy's"
            if client.at_work(own) is not client.objective:
                return f"client {index} works on another objective with every request"
    private = [payer_of(client.objective) is not None for client in grid.clients]
    if len(set(private)) > 1:
        return "some clients are private and others are not"
    if all(private) and strategy.asks_for_parts:
        return "private clients release parts of their models, in some round or other"
    for index, context in enumerate(grid.contexts.values()):
        told = strategy.accounts.account(index)
        if private[index] and told.unanswered and not knows(context.state, told.ledger):
            return f"client {index} has lost its record of releases that nobody heard of"
        receipts = load_receipts(context.state)
        pending = receipts.pending.tag if receipts.pending is not None else None
        if strategy.ledger.accepted(index) not in (receipts.committed, pending):
            return "clients remember another run"
    return None


def _overridden(kind: type, base: type, names: tuple[str, ...]) -> str:
    """Which of ``base``'s methods ``kind`` replaces, as text."""
    return ", ".join(name for name in names if getattr(kind, name) is not getattr(base, name))
