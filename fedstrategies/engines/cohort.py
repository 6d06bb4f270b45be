"""CohortGrid: all virtual clients in this process.

A real Flower `Grid`: any Strategy and any ClientApp run on it, one message per client. This
suite's strategies run whole cohorts in one batched call instead, where nothing of the user's
would be skipped by doing so.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedstrategies.engines.eligibility import reason_against
from fedstrategies.engines.handover import Handover
from fedstrategies.engines.session import InProcessSession
from fedstrategies.engines.virtual_grid import Fast, VirtualGrid
from fedstrategies.flower import BaseClient, BaseStrategy, CohortSession, FedApp
from fedstrategies.flower.private import client_error, identify, over_the_wire
from fedstrategies.flower.record_files import Record
from fedstrategies.objectives import BatchedObjective
from fedstrategies.threads import single_threaded

__all__ = ["CohortGrid"]


class CohortGrid(VirtualGrid):
    """Grid of ``num_clients`` virtual clients in the calling process.

    Its nodes remember, as real ones do: a second strategy meets clients with the memories of the
    first, and restores them by messages, one by one. Take a new grid for a new run.

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
    partitions : sequence of int or None
        Those of the n that have their node here, ascending; None: all.
    workers : int or None
        Threads at most that compute cohorts on the fast path, where they are faster than one and
        the objective allows it (`fedstrategies.engines.execution`); None: the cores available to
        the process. The bits do not depend on it.

    Raises
    ------
    ValueError
        If there is no client, ``fast`` is none of the three, or ``workers`` is below 1; when a
        strategy starts, if ``fast="require"`` and the fast path is not possible.

    Examples
    --------
    After the example of `EFBVClient`. One call for all clients, and one message for each:

    >>> from fedstrategies import CohortGrid
    >>> def model(fast):
    ...     strategy = EF21(compressor=TopK(k=1), stepsize=0.5)
    ...     strategy.start(CohortGrid(app, num_clients=2, fast=fast), x0, num_rounds=3)
    ...     return strategy.x
    >>> torch.equal(model("require"), model("never"))
    True
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        num_clients: int,
        fast: Fast = "auto",
        run_config: Mapping[str, bool | float | int | str] | None = None,
        serialize: bool = False,
        partitions: Sequence[int] | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(client_app, range(num_clients) if partitions is None else partitions, fast)
        if workers is not None and workers < 1:
            raise ValueError(f"workers = {workers}: at least one thread is needed, or None")
        self.serialize = serialize
        self.workers = workers
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": partition, "num-partitions": num_clients},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for node, partition in self.partitions.items()
        }
        # Flower's older loop sends from many threads. Its clients read arrays by numpy's loader,
        # which parses a header with ast; in Python 3.11 that fails now and then when two threads
        # do so at once (gh-106905), and the round lacks a client. So nodes take turns.
        self._turn = threading.Lock()
        self._replies: dict[str, Message] = {}
        self._handover: Handover | None = None
        self._objective: BatchedObjective | None = None

    # ---------------------------------------------------------------- Grid

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there, in partition order."""
        return list(self._contexts)

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
        with self._turn:
            reply = self.execute(over_the_wire(message) if self.serialize else message, node)
        identify(reply)
        self._replies[message_id] = over_the_wire(reply) if self.serialize else reply
        return message_id

    def execute(self, message: Message, node: int) -> Message:
        """Run the ClientApp of one node; its state changes only if the app returns.

        That holds for records that the app replaces and for entries it changes in place. An
        `Array` itself is shared, not copied: it must be replaced, as Flower's own code does.
        """
        self._write_memory(node)
        before = self._contexts[node]
        # A copy of the state: what a client did before it raised must not last.
        context = Context(
            run_id=before.run_id,
            node_id=node,
            node_config=before.node_config,
            state=RecordDict({key: _copied(record) for key, record in before.state.items()}),
            run_config=before.run_config,
        )
        try:
            reply = self.app(message, context)
        except Exception:  # whatever the user's client raises becomes its error reply
            return client_error(traceback.format_exc(), message)
        self._contexts[node] = context
        return reply

    # ---------------------------------------------------------------- what nodes keep

    @property
    def contexts(self) -> dict[int, Context]:
        """Each node's context in partition order, its state complete."""
        for node in self._contexts:
            self._write_memory(node)
        return self._contexts

    @contexts.setter
    def contexts(self, contexts: Mapping[int, Context]) -> None:
        self._contexts = dict(contexts)
        # What is owed belongs to the nodes that were there: these have no receipts for it.
        self._handover = None

    @property
    def receipts(self) -> Mapping[int, Context]:
        """The same without memories that a session of the fast path has not written yet."""
        return self._contexts

    def owe(self, handover: Handover) -> None:
        """From now on nodes get their memories from ``handover`` when they are looked at."""
        self._handover = handover

    def _write_memory(self, node: int) -> None:
        if self._handover is not None:
            self._handover.write(self.partitions[node], self._contexts[node])

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
        return [self.app.client_fn(context) for context in self._contexts.values()]

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

    @cached_property
    def repeats_releases(self) -> bool:
        """Whether nodes that begin anew release the same: not if their noise is a real secret.

        As the first client says; False if it cannot be built or is none of this suite's.
        """
        if not isinstance(self.app, FedApp):
            return False
        try:
            payer = self.app.client_fn(next(iter(self._contexts.values()))).payer
        except Exception:  # the node says so itself when it is asked
            return False
        return payer is None or payer.secret.simulated

    def reason_against(self, strategy: BaseStrategy) -> str | None:
        """Why running without messages would skip something of the user's; None: it would not."""
        return reason_against(self, strategy, CohortGrid)

    def new_session(self, strategy: BaseStrategy) -> CohortSession:
        """The session, where there is no reason against it."""
        return InProcessSession(self, strategy)


def _copied(record: Record) -> Record:
    """A record whose entries may be changed without the other's; no numbers are copied."""
    copy = record.copy()
    lists: Any = {name: value for name, value in record.items() if isinstance(value, list)}
    for name, value in lists.items():
        copy[name] = value.copy()
    return copy
