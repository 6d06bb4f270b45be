"""What runs in one Ray actor of a `RayGrid`: a CohortGrid of some partitions, and their memories.

Rows count the actor's own clients here, in partition order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from flwr.app import Message, RecordDict
from ray.cloudpickle import loads
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.engines.cohort import CohortGrid
from fedstrategies.engines.eligibility import Asked, reason_in_clients, remembers
from fedstrategies.engines.execution import Execution
from fedstrategies.engines.parcel import Parcel
from fedstrategies.flower import ClientRule
from fedstrategies.flower.control import Tag
from fedstrategies.flower.receipts import Receipts
from fedstrategies.flower.records import replica_records, save_state
from fedstrategies.flower.replica import Replica
from fedstrategies.threads import single_threaded

__all__ = ["ShardWorker"]

PRIVATE = (
    "private clients answer one message each: what they have spent is kept on their nodes, which "
    "the server's copy must not replace"
)

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class _Sent:
    """Messages whose fate is not known yet."""

    rule: ClientRule
    rows: Tensor
    payload: Payload


class ShardWorker:
    """The clients of some partitions in a process of their own.

    Data are read here, by the app's ``client_fn``: they never travel.

    Parameters
    ----------
    app : bytes
        The pickled ClientApp.
    clients : int
        n, of the whole grid.
    partitions : sequence of int
        Those of this actor, ascending.
    run_config : mapping
        The clients' ``context.run_config``.
    workers, chunk : int, int or None
        Threads, and clients at a time: see `Execution`.
    """

    def __init__(
        self,
        app: bytes,
        clients: int,
        partitions: Sequence[int],
        run_config: Mapping[str, bool | float | int | str],
        *,
        workers: int = 1,
        chunk: int | None = None,
    ) -> None:
        self._threads = ExitStack()
        self._threads.enter_context(single_threaded())
        self._grid = CohortGrid(
            loads(app), num_clients=clients, partitions=partitions, run_config=run_config
        )
        self._execution = Execution(workers=workers, chunk=chunk)
        self._memory: Memory = {}
        self._sent: list[_Sent] = []

    def ready(self) -> None:
        """Answer, which says that the app could be loaded."""

    # ---------------------------------------------------------------- messages

    def execute(self, messages: Parcel[Sequence[Message]]) -> Parcel[list[Message]]:
        """The replies of this actor's nodes, in the order of the messages."""
        return Parcel([self._grid.execute(m, m.metadata.dst_node_id) for m in messages.content])

    # ---------------------------------------------------------------- whole cohorts

    def reason_against(self, asked: Parcel[Sequence[Asked]], accepted: Sequence[Tag]) -> str | None:
        """What would be skipped without messages; ``accepted`` has an entry a row."""
        clients = dict(zip(self._grid.partitions.values(), self._grid.clients, strict=True))
        if any(
            client.privacy is not None or client.payer is not None for client in clients.values()
        ):
            return PRIVATE
        reason = reason_in_clients(clients, asked.content)
        if reason is not None:
            return reason
        states = [context.state for context in self._grid.contexts.values()]
        known = all(map(remembers, states, accepted))
        return None if known else "clients remember another run"

    def begin(
        self, newborn: Parcel[Memory], rows: Sequence[int], kept: Parcel[Memory]
    ) -> Parcel[Tensor]:
        """Take up the memories.

        Parameters
        ----------
        newborn : Parcel of dict
            One client's memory before its first round: shape (1, d) each.
        rows, kept : sequence of int, Parcel of dict
            Who has another one, and which: shape (len(rows), d) each.

        Returns
        -------
        Parcel of Tensor
            m_i, int64, an entry a row.
        """
        count = len(self._grid.partitions)
        self._sent = []
        self._memory = {name: one.repeat(count, 1) for name, one in newborn.content.items()}
        self.restore(rows, kept)
        return Parcel(self._grid.objective.num_examples)

    def restore(self, rows: Sequence[int], kept: Parcel[Memory]) -> None:
        """Replace some clients' memories, shape (len(rows), d) each."""
        for name, values in kept.content.items():
            self._memory[name][list(rows)] = values

    def step(
        self,
        rule: Parcel[ClientRule],
        x: Parcel[Tensor],
        keys: Parcel[Tensor],
        rows: Parcel[Tensor],
    ) -> Parcel[tuple[Payload, Tensor]]:
        """Messages and losses of some rows; see `fedstrategies.flower.CohortSession.step`."""
        here = rows.content
        found = self._execution.run(
            rule.content,
            self._memory,
            x.content.clone(),  # a rule that writes into it shall not touch shared memory
            self._grid.objective,
            keys.content,
            clients=here,
        )
        if self._memory:
            # Of what a client sends in one attempt, the last counts.
            self._sent = [
                sent for sent in self._sent if not bool(torch.isin(sent.rows, here).any())
            ]
            self._sent.append(_Sent(rule.content, here, found[0]))
        return Parcel(found)

    def settle(self, rows: Parcel[Tensor], settlement: Parcel[Tensor]) -> None:
        """Advance the memories by what these rows sent, which the server used."""
        for sent in self._sent:
            used = torch.isin(sent.rows, rows.content)
            payload = sent.payload if bool(used.all()) else sent.payload.rows(used)
            sent.rule.commit_(
                self._memory, payload, clients=sent.rows[used], settlement=settlement.content
            )
        self._sent = []

    def flush(
        self,
        rows: Sequence[int],
        accepted: Sequence[Tag],
        seen: tuple[int, int],
        replicas: Parcel[Sequence[tuple[Sequence[int], Replica]]],
    ) -> None:
        """Write memories and receipts of some clients into their nodes' contexts.

        ``replicas`` are versions of the model with the rows that hold them, where the downlink
        is compressed.
        """
        contexts = list(self._grid.contexts.values())
        for row, tag in zip(rows, accepted, strict=True):
            state = RecordDict(dict(contexts[row].state))
            memory = {name: value[row : row + 1] for name, value in self._memory.items()}
            save_state(state, Receipts(committed=tag, seen=seen), memory)
            contexts[row].state = state
        for holders, replica in replicas.content:
            records = replica_records(replica)
            for row in holders:
                contexts[row].state = RecordDict({**contexts[row].state, **records})

    def end(self) -> None:
        """Let go of the memories, which the nodes have."""
        self._memory, self._sent = {}, []
