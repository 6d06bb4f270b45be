"""What a private node has really released, as against what its own ledger says.

The two differ. A node without a record charges itself for all requests whose outcome nobody knows,
some of which never reached it; and what it released before it lost its record, it released. The
count lies in the node's state, so that it is kept, lost and brought back with the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import MetricRecord, RecordDict

from fedstrategies.flower.account import Account, work_of
from fedstrategies.flower.records import LEDGER
from fedstrategies.flower.rules import ClientRule
from fedstrategies.flower.spending import knows, load_spending

_KEY = "tests.released"


def on_its_ledger(state: RecordDict) -> int:
    """Releases on a node's own ledger."""
    known = load_spending(state)
    return 0 if known is None else known[1].releases


def released(state: RecordDict) -> int:
    """Releases made since the node's state began."""
    record = state.get(_KEY)
    return int(record["count"]) if isinstance(record, MetricRecord) else 0  # type: ignore[arg-type]


class Counting:
    """A client, mixed in before its class, that counts the releases of each step in its state."""

    def _step(self, rule: ClientRule, *rest: Any) -> Any:
        if self.payer is None:
            return super()._step(rule, *rest)
        config: Mapping[str, object] = rest[-1]
        told = Account.from_bytes(config.get(LEDGER, b""))
        state: RecordDict = self.context.state
        unheard = 0 if knows(state, told.ledger) else told.unanswered
        before = max(on_its_ledger(state), told.ledger.releases)
        done = super()._step(rule, *rest)
        # Of w units of work that it did and u that it may have done, each is charged alike.
        charged = on_its_ledger(state) - before
        work = work_of(rule)
        made = charged * work // (work + unheard)
        state[_KEY] = MetricRecord({"count": released(state) + made})
        return done
