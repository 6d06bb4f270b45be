"""CohortGrid: all virtual clients in this process.

A real Flower `Grid`: any Strategy and any ClientApp run on it, one message per client. This
suite's strategies run whole cohorts in one batched call instead, where nothing of the user's
would be skipped by doing so.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedstrategies.engines.session import InProcessSession, reason_against
from fedstrategies.flower import BaseClient, BaseStrategy, CohortSession, FedApp
from fedstrategies.flower.private import client_error, ensure_identity, identify, over_the_wire
from fedstrategies.objectives import BatchedObjective
from fedstrategies.threads import single_threaded

__all__ = ["CohortGrid"]

logger = logging.getLogger("flwr")

_FIRST_NODE = 1001


class CohortGrid(Grid):
    """Grid of ``num_clients`` virtual clients in the calling process.

    Parameters
    ----------
    client_app : ClientApp
        What every node runs; from `fedstrategies.client_app` for the fast path.
    num_clients : int
        n; node i holds partition i.
    fast : {"auto", "never", "require"}
        Whether whole cohorts may run in one call in place of one message per client.
        ``"require"`` raises with the reason where they may not.
    run_config : mapping or None
        The clients' ``context.run_config``.
    serialize : bool
        Pass every message through Flower's own serialisation, which catches content that could
        not travel. Our frames are encoded and decoded in any case.
    """

    fixed_membership = True

    def __init__(
        self,
        client_app: ClientApp,
        *,
        num_clients: int,
        fast: Literal["auto", "never", "require"] = "auto",
        run_config: Mapping[str, bool | float | int | str] | None = None,
        serialize: bool = False,
    ) -> None:
        if num_clients < 1:
            raise ValueError(f"num_clients = {num_clients}: at least one client is needed")
        if fast not in ("auto", "never", "require"):
            raise ValueError(f"fast = {fast!r} is not 'auto', 'never' or 'require'")
        ensure_identity()
        self.app = client_app
        self.fast = fast
        self.serialize = serialize
        self.contexts = {
            _FIRST_NODE + i: Context(
                run_id=1,
                node_id=_FIRST_NODE + i,
                node_config={"partition-id": i, "num-partitions": num_clients},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i in range(num_clients)
        }
        self.partitions = {node: node - _FIRST_NODE for node in self.contexts}
        self._locks = {node: threading.Lock() for node in self.contexts}
        self._replies: dict[str, Message] = {}
        self._objective: BatchedObjective | None = None
        self._run: Run | None = None

    # ---------------------------------------------------------------- Grid

    def set_run(self, run: Run) -> None:
        """Remember the run (nothing here depends on it)."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run given to `set_run`, or an empty one."""
        return self._run if self._run is not None else Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message (Flower's older way)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in partition order."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages; every node has answered when this returns."""
        with single_threaded():
            return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to ``message_ids`` that are there; each is handed out once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and return the replies."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        message_id = identify(message)
        node = message.metadata.dst_node_id
        with self._locks[node]:
            reply = self.execute(over_the_wire(message) if self.serialize else message, node)
        identify(reply)
        self._replies[message_id] = over_the_wire(reply) if self.serialize else reply
        return message_id

    def execute(self, message: Message, node: int) -> Message:
        """Run the ClientApp of one node; its state changes only if the app returns."""
        before = self.contexts[node]
        # A copy of the state: what a client did before it raised must not last.
        context = Context(
            run_id=before.run_id,
            node_id=node,
            node_config=before.node_config,
            state=RecordDict(dict(before.state)),
            run_config=before.run_config,
        )
        try:
            reply = self.app(message, context)
        except Exception:  # whatever the user's client raises becomes its error reply
            return client_error(traceback.format_exc(), message)
        self.contexts[node] = context
        return reply

    # ---------------------------------------------------------------- whole cohorts

    @cached_property
    def clients(self) -> list[BaseClient]:
        """One client a node in partition order, built once to be looked at.

        Raises
        ------
        TypeError
            If the app is not from `fedstrategies.client_app`.
        """
        if not isinstance(self.app, FedApp):
            raise TypeError("only apps from fedstrategies.client_app reveal their clients")
        return [self.app.client_fn(context) for context in self.contexts.values()]

    @property
    def objective(self) -> BatchedObjective:
        """The f_i of all clients in partition order, built once through ``client_fn``.

        Raises
        ------
        TypeError
            If the app is not from `fedstrategies.client_app`.
        """
        if self._objective is None:
            objectives = [client.objective for client in self.clients]
            self._objective = type(objectives[0]).stack(objectives).remembering()
        return self._objective

    def open_cohort(self, strategy: BaseStrategy) -> CohortSession | None:
        """A session for the fast path, or None; the reason is logged.

        Raises
        ------
        ValueError
            If ``fast="require"`` and there is a reason against it.
        """
        reason = (
            "fast='never'" if self.fast == "never" else reason_against(self, strategy, CohortGrid)
        )
        if reason is None:
            return InProcessSession(self, strategy)
        if self.fast == "require":
            raise ValueError(f"the fast path is required but not possible: {reason}")
        logger.info("clients run one message each (no fast path): %s", reason)
        return None
