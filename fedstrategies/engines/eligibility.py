"""When clients may run without messages: where nothing of the user's would be skipped by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from fedstrategies.flower import BaseClient, BaseStrategy, ClientRule, FedApp
from fedstrategies.flower.control import Tag
from fedstrategies.flower.metrics import weighted_mean
from fedstrategies.flower.records import load_receipts
from fedstrategies.flower.spending import knows, payer_of

if TYPE_CHECKING:
    from fedstrategies.engines.cohort import CohortGrid

__all__ = [
    "Asked",
    "overridden",
    "reason_against",
    "reason_in_clients",
    "reason_in_shell",
    "remembers",
    "rules_asked",
]

_SHELL_METHODS = ("configure_train", "aggregate_train", "commit", "advance")
_CLIENT_METHODS = ("train", "fit")
_GRID_METHODS = ("send_and_receive", "push_messages", "pull_messages", "execute")

Asked: TypeAlias = tuple[tuple[tuple[float, ...], str], ClientRule]
"""Constants and text as a client is told them, and the rule they stand for."""


def reason_against(
    grid: CohortGrid, strategy: BaseStrategy, grid_class: type[CohortGrid]
) -> str | None:
    """Why running without messages would skip something of the user's; None if it would not.

    ``grid_class`` is the class whose own methods may be skipped: a subclass's may not.
    """
    changed = reason_in_shell(grid.app, strategy)
    if changed:
        return changed
    changed = overridden(type(grid), grid_class, _GRID_METHODS)
    if changed:
        return f"the grid overrides {changed}"
    changed = reason_in_clients(dict(enumerate(grid.clients)), rules_asked(strategy))
    if changed:
        return changed
    private = [payer_of(client.objective) is not None for client in grid.clients]
    if len(set(private)) > 1:
        return "some clients are private and others are not"
    if all(private) and strategy.asks_for_parts:
        return "private clients release parts of their models, in some round or other"
    for index, context in enumerate(grid.receipts.values()):
        told = strategy.accounts.account(index)
        if private[index] and told.unanswered and not knows(context.state, told.ledger):
            return f"client {index} has lost its record of releases that nobody heard of"
        ledger = strategy.ledger
        if not (ledger.is_resumed(index) or remembers(context.state, ledger.accepted(index))):
            return "clients remember another run"
    return None


def reason_in_shell(app: ClientApp, strategy: BaseStrategy) -> str | None:
    """What of the app and the strategy would be skipped without messages; None: nothing."""
    if not isinstance(app, FedApp):
        return "the app is not from fedstrategies.client_app"
    if app.mods:
        return "the app has mods, which see messages"
    if app.store is not None:
        return "the app's clients keep their state in a store, which is for messages"
    changed = overridden(type(strategy), BaseStrategy, _SHELL_METHODS)
    if changed:
        return f"the strategy overrides {changed}"
    if strategy.memory is None:
        return "the clients' memories exceed memory_budget"
    if strategy.train_metrics_aggr_fn is not weighted_mean:
        return "train_metrics_aggr_fn is the user's and sees replies"
    if strategy.weighted_by_key != "num-examples":
        return "weighted_by_key names a metric that only replies carry"
    return None


def rules_asked(strategy: BaseStrategy) -> list[Asked]:
    """What the next round asks for, an entry an assignment."""
    return [
        ((assignment.constants_of(0), assignment.spec), assignment.rule_of(0))
        for assignment in strategy.plan(strategy.round + 1)
    ]


def reason_in_clients(clients: Mapping[int, BaseClient], asked: Sequence[Asked]) -> str | None:
    """What clients, by partition, do otherwise than their rules without messages; None: nothing."""
    for partition, client in clients.items():
        changed = overridden(type(client), BaseClient, _CLIENT_METHODS)
        if changed:
            return f"client {partition} overrides {changed}"
        if client.payer is not payer_of(client.objective):
            return f"client {partition} hides its messages itself"
        for (constants, spec), rule in asked:
            # What one client is told must mean the same to all of them.
            own = client.rule(constants, spec)
            if own != rule:
                return f"the rule of client {partition} differs from the strategy's"
            if client.at_work(own) is not client.objective:
                return f"client {partition} works on another objective with every request"
    return None


def remembers(state: RecordDict, accepted: Tag) -> bool:
    """Whether a node's memory is the one that its last ``accepted`` upload leads to."""
    receipts = load_receipts(state)
    pending = receipts.pending.tag if receipts.pending is not None else None
    return accepted in (receipts.committed, pending)


def overridden(kind: type, base: type, names: tuple[str, ...]) -> str:
    """Which of ``base``'s methods ``kind`` replaces, as text."""
    return ", ".join(name for name in names if getattr(kind, name) is not getattr(base, name))
