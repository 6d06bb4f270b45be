"""The fast path over Ray actors: which of them steps for whom, and what they are told after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import ray
import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.engines.eligibility import rules_asked
from fedstrategies.engines.letterbox import Reply
from fedstrategies.engines.parcel import Parcel
from fedstrategies.engines.ray_answer import Answer
from fedstrategies.engines.ray_recovery import recovery_size
from fedstrategies.engines.ray_shard import Shard
from fedstrategies.engines.ray_step import Underway, rule_of
from fedstrategies.flower import BaseStrategy, ClientRule, Delivery
from fedstrategies.flower.control import Tag
from fedstrategies.flower.replica import Replica
from fedstrategies.flower.sessions import StepRequest
from fedstrategies.privacy import PrivateObjective
from fedstrategies.threads import single_threaded

__all__ = ["RaySession", "reason_in_shards"]

_INLINED = 100_000
"""Bytes up to which arguments travel in the call itself, as Ray has it by default."""


def reason_in_shards(shards: Sequence[Shard], strategy: BaseStrategy) -> str | None:
    """Why clients in actors must answer by messages; the first reason in partition order."""
    _begin_round(shards)
    asked = Parcel(rules_asked(strategy))
    ledger = strategy.ledger
    accepted = [
        None if ledger.is_resumed(p) else ledger.accepted(p) for p in range(strategy.clients)
    ]
    answers = [
        shard.ask("reason_against", asked, [accepted[p] for p in shard.partitions.tolist()])
        for shard in shards
    ]
    reasons: list[str | None] = [answer.get() for answer in answers]
    return next((reason for reason in reasons if reason is not None), None)


class RaySession:
    """All clients of a `RayGrid` while their memories are in the actors, and copied here.

    The strategy commits its copy of the memories, and the actors theirs, by the same messages
    with the same bits. A new actor in place of one that died gets its rows of the copy.

    Parameters
    ----------
    shards : sequence of Shard
        They own all partitions together.
    strategy : BaseStrategy
        Whose copy of the memories is given out, and whose bytes of recovery are counted.
    inlined : int
        Bytes up to which arguments travel in the call itself: larger ones Ray would store once
        for every actor that is sent them.
    """

    payers: Sequence[PrivateObjective] = ()

    def __init__(
        self, shards: Sequence[Shard], strategy: BaseStrategy, *, inlined: int = _INLINED
    ) -> None:
        self._shards = shards
        self._inlined = inlined
        self._strategy = strategy
        self._begun: list[Underway] = []
        self._unread: set[Shard] = set()
        """Actors that are at work on this round's first answer, or have answers not looked at."""
        self._settling: list[Answer] = []
        self._sent: tuple[Tensor, int, Any] | None = None
        """The last large vector in the object store, its version, and the reference to it there."""
        self.num_examples = torch.zeros(strategy.clients, dtype=torch.int64)
        """m_i in partition order: int64, shape (n,)."""
        self._owner, self._row = self.num_examples.clone(), self.num_examples.clone()
        for place, shard in enumerate(shards):
            self._owner[shard.partitions] = place
            self._row[shard.partitions] = torch.arange(len(shard.partitions))
        x = strategy.x
        rule = strategy.plan(strategy.round + 1)[0].rule
        self._newborn = rule.initial_memory(1, len(x), x.dtype, torch.device("cpu"))
        _begin_round(shards)
        # Data are read in all actors at once; memories are copied for one of them at a time.
        for shard, answer in [(shard, shard.ask("num_examples")) for shard in shards]:
            self.num_examples[shard.partitions] = answer.get().content
        try:
            for shard in shards:
                lost = shard.partitions[self._begin(shard).get()]
                strategy.bytes.recovery += recovery_size(strategy, lost)
        except BaseException:
            self._release()
            raise
        for shard in shards:
            shard.on_rebuilt = self._revive
        self._threads = ExitStack()
        self._threads.enter_context(single_threaded())

    def _divided(self, clients: Tensor) -> Iterator[tuple[Shard, Tensor, Tensor]]:
        """Shards that own some of the clients: where those stand in the list, and their rows."""
        owners = self._owner[clients]
        for place, shard in enumerate(self._shards):
            here = (owners == place).nonzero().flatten()
            if len(here):
                yield shard, here, self._row[clients[here]]

    # ---------------------------------------------------------------- rounds

    def announce(self, steps: Sequence[StepRequest]) -> None:
        """Give all actors all their work of the round, so that none waits for another."""
        self._unread.clear()
        self._begun = [self._submit(s.rule, s.x, s.keys, s.clients) for s in steps]

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
        if self._begun and torch.equal(self._begun[0].clients, clients):
            underway = self._begun.pop(0)
        else:
            underway = self._submit(rule, x, keys, clients)
        # Actors settle before they step: this waits for nothing that the answers do not wait for,
        # and an actor that is not known to have settled is not believed.
        self._check_settled()
        found = underway.result()
        if not self._begun:
            self._unread.clear()
        self._check_settled()
        return found

    def _submit(self, rule: ClientRule, x: Tensor, keys: Tensor, clients: Tensor) -> Underway:
        point, answers, places = self._shared(x), [], []
        # Asking takes a while too: whoever has most to do begins first.
        for shard, here, rows in sorted(self._divided(clients), key=lambda part: -len(part[1])):
            work = Parcel((rule_of(rule, shard), keys[here], rows))
            reply = Reply(first=shard not in self._unread)
            self._unread.add(shard)
            answers.append(shard.ask("step", work, point, reply, about=clients[here].tolist()))
            places.append(here)
        return Underway(clients=clients, answers=answers, order=torch.cat(places).argsort())

    def settle(self, deliveries: Sequence[Delivery], settlement: Tensor) -> None:
        """Tell the actors which messages were used; nobody waits for them."""
        used = [delivery.partition_ids for delivery in deliveries] if self._memory else []
        shared = self._shared(settlement) if used else None
        for shard, _, rows in self._divided(torch.cat(used)) if used else ():
            if shard.died:
                # The messages died with the actor that made them.
                told = shard.ask("restore", rows.tolist(), self._copies(shard, rows))
            else:
                told = shard.ask("settle", Parcel(rows), shared)
            self._settling.append(told)
        _begin_round(self._shards)

    def _check_settled(self) -> None:
        """See that all actors have the memories they should; those that may not are replaced."""
        while self._settling:
            self._settling.pop(0).confirm()

    def _shared(self, vector: Tensor) -> Any:
        """A vector for all actors: stored once if it is large, and not twice in a row."""
        if vector.nbytes < self._inlined:
            return Parcel(vector)
        known = self._sent
        if known is None or known[0] is not vector or known[1] != vector._version:
            known = self._sent = (vector, vector._version, ray.put(Parcel(vector)))
        return known[2]

    # ---------------------------------------------------------------- memories

    @property
    def _memory(self) -> Mapping[str, Tensor]:
        assert self._strategy.memory is not None
        return self._strategy.memory

    def _known(self, shard: Shard) -> Tensor:
        """Rows of the clients whose uploads were used: all others are as they were born."""
        known = torch.from_numpy(self._strategy.ledger.has_accepted())
        return known[shard.partitions].nonzero().flatten()

    def _copies(self, shard: Shard, rows: Tensor) -> Parcel[dict[str, Tensor]]:
        partitions = shard.partitions[rows]
        return Parcel({name: value[partitions] for name, value in self._memory.items()})

    def _begin(self, shard: Shard) -> Answer:
        rows = self._known(shard)
        return shard.ask("begin", Parcel(self._newborn), rows.tolist(), self._copies(shard, rows))

    def _revive(self, shard: Shard) -> None:
        """A new actor gets the memories of its clients, which is counted as recovery."""
        self._settling.append(self._begin(shard))
        self._strategy.bytes.recovery += recovery_size(self._strategy, shard.partitions)

    def flush(self, strategy: BaseStrategy) -> None:
        """Write each node's memory and receipt into its context, where it lives."""
        self._check_settled()
        seen = (strategy.ledger.session, strategy.ledger.sequence)
        held: dict[Shard, list[tuple[list[int], Replica]]] = {shard: [] for shard in self._shards}
        if strategy.broadcast is not None:
            for members, replica in strategy.broadcast.replicas(strategy.ledger.session):
                for shard, _, rows in self._divided(torch.from_numpy(members)):
                    held[shard].append((rows.tolist(), replica))
        answers = []
        for shard in self._shards:
            if shard.lost:
                continue  # its nodes have nothing left; they will say so
            rows = self._known(shard)
            tags: list[Tag] = [strategy.ledger.accepted(p) for p in shard.partitions[rows].tolist()]
            answers.append(shard.ask("flush", rows.tolist(), tags, seen, Parcel(held[shard])))
        for answer in answers:
            answer.get()
        self._check_settled()
        _begin_round(self._shards)

    def close(self, strategy: BaseStrategy) -> None:
        """Flush, let go of the memories, and give the threads back, whatever becomes of the flush.

        Raises
        ------
        RuntimeError
            If state could not be given to nodes; they will say that they have lost it.
        """
        with self._threads:
            try:
                self.flush(strategy)
            finally:
                self._release()

    def _release(self) -> None:
        """Tell the actors that there are, without waiting, that nobody asks for steps any more."""
        _begin_round(self._shards)
        for shard in self._shards:
            shard.on_rebuilt = None
            if not shard.lost:
                shard.ask("end")


def _begin_round(shards: Sequence[Shard]) -> None:
    """From here on an actor may die again."""
    for shard in shards:
        shard.died = False
