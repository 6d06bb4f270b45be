"""What runs in one Ray actor of a `RayGrid`: a CohortGrid of some partitions, and their memories.

Rows count the actor's own clients here, in partition order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

import torch
from flwr.app import Message, RecordDict
from ray.cloudpickle import loads
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.engines.cohort import CohortGrid
from fedstrategies.engines.eligibility import Asked, reason_in_clients, remembers
from fedstrategies.engines.execution import Execution
from fedstrategies.engines.letterbox import Letter, Reply, Writer
from fedstrategies.engines.parcel import Parcel
from fedstrategies.engines.ray_handover import RowHandover
from fedstrategies.flower import ClientRule
from fedstrategies.flower.control import Tag
from fedstrategies.flower.ledger import Ledger
from fedstrategies.flower.receipts import Receipts
from fedstrategies.flower.records import load_receipts, replica_records, save_state
from fedstrategies.flower.replica import Replica
from fedstrategies.threads import single_threaded

__all__ = ["ShardWorker"]

PRIVATE = (
    "private clients answer one message each: what they have spent is kept on their nodes, which "
    "the server's copy must not replace"
)

Memory = dict[str, Tensor]

Work: TypeAlias = tuple[ClientRule, Tensor, Tensor]
"""Rule, keys and rows of a step."""


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
        self._moves = Ledger(len(partitions), session=0)
        """When each row of the memories was moved on."""
        self._owed: RowHandover | None = None
        self._serving = False
        self._sent: list[_Sent] = []
        self._writer = Writer()

    def ready(self) -> None:
        """Answer, which says that the app could be loaded."""

    def repeats_releases(self) -> bool:
        """See `CohortGrid.repeats_releases`."""
        return self._grid.repeats_releases

    # ---------------------------------------------------------------- messages

    def execute(self, messages: Parcel[Sequence[Message]]) -> Parcel[list[Message]]:
        """The replies of this actor's nodes, in the order of the messages."""
        replies = [self._grid.execute(m, m.metadata.dst_node_id) for m in messages.content]
        self._let_go()
        return Parcel(replies)

    # ---------------------------------------------------------------- whole cohorts

    def reason_against(
        self, asked: Parcel[Sequence[Asked]], accepted: Sequence[Tag | None]
    ) -> str | None:
        """What would be skipped without messages; ``accepted`` has an entry a row.

        Clients that remember nothing at all are no reason, nor are those that are to be sent
        their memory anyway (None): `begin` restores them.
        """
        clients = dict(zip(self._grid.partitions.values(), self._grid.clients, strict=True))
        if any(
            client.privacy is not None or client.payer is not None for client in clients.values()
        ):
            return PRIVATE
        reason = reason_in_clients(clients, asked.content)
        if reason is not None:
            return reason
        known = all(
            tag is None or remembers(state, tag) or _is_blank(state)
            for state, tag in zip(self._states(), accepted, strict=True)
        )
        return None if known else "clients remember another run"

    def num_examples(self) -> Parcel[Tensor]:
        """m_i, int64, an entry a row."""
        return Parcel(self._grid.objective.num_examples)

    def begin(
        self, newborn: Parcel[Memory], rows: Sequence[int], kept: Parcel[Memory]
    ) -> list[int]:
        """Take up the memories, in the place of those of an earlier session.

        Parameters
        ----------
        newborn : Parcel of dict
            One client's memory before its first round: shape (1, d) each.
        rows, kept : sequence of int, Parcel of dict
            Who has another one, and which: shape (len(rows), d) each.

        Returns
        -------
        list of int
            Those of ``rows`` whose nodes had lost theirs.
        """
        self._sent, self._serving = [], True
        count = len(self._grid.partitions)
        others = torch.ones(count, dtype=torch.bool)
        others[list(rows)] = False
        for name, one in newborn.content.items():
            held = self._memory.get(name)
            if held is None or held.dtype != one.dtype or held.shape != (count, one.shape[1]):
                self._memory[name] = one.repeat(count, 1)
            else:
                # What nodes are still owed are ``rows``, with the values they are given here.
                held[others] = one
        for name in self._memory.keys() - newborn.content.keys():
            del self._memory[name]
        self._take(rows, kept)
        states = self._states()
        return [row for row in rows if _is_blank(states[row])]

    def restore(self, rows: Sequence[int], kept: Parcel[Memory]) -> None:
        """`settle` by copies of the settled memories, shape (len(rows), d) each."""
        self._note_moved(torch.tensor(rows, dtype=torch.int64))
        self._take(rows, kept)
        self._sent = []

    def _take(self, rows: Sequence[int], kept: Parcel[Memory]) -> None:
        for name, values in kept.content.items():
            self._memory[name][list(rows)] = values

    def _note_moved(self, rows: Tensor) -> None:
        self._moves.open_attempt([])
        self._moves.commit_batch(rows)

    def step(
        self, work: Parcel[Work], x: Parcel[Tensor], reply: Reply
    ) -> Parcel[tuple[Payload, Tensor]] | Letter:
        """Messages and losses of some rows; see `fedstrategies.flower.CohortSession.step`."""
        rule, keys, here = work.content
        found = self._execution.run(
            rule,
            self._memory,
            x.content.clone(),  # a rule that writes into it shall not touch shared memory
            self._grid.objective,
            keys,
            clients=here,
        )
        if self._memory:
            # Of what a client sends in one attempt, the last counts.
            self._sent = [
                sent for sent in self._sent if not bool(torch.isin(sent.rows, here).any())
            ]
            self._sent.append(_Sent(rule, here, found[0]))
        return self._writer.put(found, reply)

    def settle(self, rows: Parcel[Tensor], settlement: Parcel[Tensor]) -> None:
        """Advance the memories by what these rows sent, which the server used."""
        self._note_moved(rows.content)
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
        """Write receipts of some clients into their nodes' contexts; memories follow when needed.

        ``replicas`` are versions of the model with the rows that hold them, where the downlink
        is compressed.
        """
        contexts = list(self._grid.receipts.values())
        for row, tag in zip(rows, accepted, strict=True):
            state = RecordDict(dict(contexts[row].state))
            save_state(state, Receipts(committed=tag, seen=seen), None if self._memory else {})
            contexts[row].state = state
        if self._memory:
            partitions = list(self._grid.partitions.values())
            owed = {partitions[row]: row for row in rows}
            self._owed = RowHandover(self._memory, self._moves, owed)
            self._grid.owe(self._owed)
        for holders, replica in replicas.content:
            records = replica_records(replica)
            for row in holders:
                contexts[row].state = RecordDict({**contexts[row].state, **records})

    def end(self) -> None:
        """Let go of the memories as soon as the nodes have them."""
        self._sent, self._serving = [], False
        self._let_go()

    def _let_go(self) -> None:
        if not self._serving and (self._owed is None or self._owed.done):
            self._memory = {}

    def _states(self) -> list[RecordDict]:
        return [context.state for context in self._grid.receipts.values()]


def _is_blank(state: RecordDict) -> bool:
    """Whether a node has no receipts: it never took part, or it has lost everything."""
    return load_receipts(state) == Receipts()
