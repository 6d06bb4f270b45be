"""A round of compressed updates: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedstrategies.flower.compressed_copies import Copies
from fedstrategies.flower.compressed_demands import Demands
from fedstrategies.flower.compressed_upload import Asked, ReplyReader, Upload, size_of
from fedstrategies.flower.control import MemoryCommand, Request
from fedstrategies.flower.counters import ByteCounters
from fedstrategies.flower.errors import reason_of
from fedstrategies.flower.flat_update import FlatModel, in_types, only_arrays
from fedstrategies.flower.ledger import Rejected
from fedstrategies.flower.private import client_error, fault_of_the_app
from fedstrategies.flower.records import CONTROL, MEMORY, raw_array
from fedstrategies.random import Purpose, client_keys
from fedstrategies.wire import encode_vector

__all__ = ["CompressedRound"]


class CompressedRound:
    """One attempt.

    Parameters
    ----------
    messages : sequence of Message
        What the strategy would send.
    copies : Copies
        Changed by `commit` alone, apart from orders to restore a memory.
    seed : int
        Of the operators' draws.
    bytes : ByteCounters
        Where they are counted.
    demands : Demands
        Of the strategy that is to aggregate.

    Attributes
    ----------
    requests : list of Message
        The messages, with control fields.
    failures : list of str
        One line per client whose reply is not used.
    faulty : dict of int to str
        Nodes that failed by their own fault, and how.
    unreachable : dict of int to str
        Nodes in whose place Flower answered with an error that is not the app's.
    strays : list of str
        Errors of clients that cannot be named.
    """

    def __init__(
        self,
        messages: list[Message],
        copies: Copies,
        *,
        seed: int,
        bytes: ByteCounters,
        demands: Demands,
    ) -> None:
        self.copies = copies
        self.bytes = bytes
        self.demands = demands
        self._reader = ReplyReader(copies=copies, counters=bytes, demands=demands)
        self.failures: list[str] = []
        self.faulty: dict[int, str] = {}
        self.unreachable: dict[int, str] = {}
        self.strays: list[str] = []
        self._uploads: dict[int, Upload] = {}
        self._asked: dict[int, Asked] = {}
        self._sent: dict[int, Message] = {}
        models: dict[int, FlatModel] = {}
        # Strategies draw nodes in any order; numbers, hence draws, are not to depend on it.
        for message in sorted(messages, key=lambda one: one.metadata.dst_node_id):
            node = message.metadata.dst_node_id
            _, record = only_arrays(message.content, f"the train message to node {node}")
            if id(record) not in models:  # strategies send everyone the same record
                models[id(record)] = FlatModel.of(record)
            if node in self._asked:
                raise ValueError(f"the strategy sends node {node} two train messages in one round")
            self._asked[node] = Asked(number=copies.number(node), model=models[id(record)])
        copies.ledger.open_attempt([asked.number for asked in self._asked.values()])
        copies.round += 1
        self.requests = [self._request(message, seed) for message in messages]

    def _request(self, message: Message, seed: int) -> Message:
        node = message.metadata.dst_node_id
        asked, ledger = self._asked[node], self.copies.ledger
        (key,) = client_keys(
            seed, self.copies.round, torch.tensor([asked.number]), Purpose.CLIENT
        ).tolist()
        command = self.copies.command(asked.number)
        request = Request(
            session=ledger.session,
            sequence=ledger.sequence,
            round=self.copies.round,
            key=key,
            ack=ledger.accepted(asked.number),
            memory=command,
        ).to_bytes()
        content = RecordDict({**message.content, CONTROL: ConfigRecord({CONTROL: request})})
        if command is MemoryCommand.TAKE:
            g = self.copies.memory(asked.number)
            assert g is not None
            frame = encode_vector(g)
            content[MEMORY] = ArrayRecord({"0": raw_array(frame)})
            self.bytes.recovery += len(frame)
        self.bytes.downlink += len(request) + size_of(asked.model.record)
        found = copy(message)
        found.content = content
        self._sent[node] = found
        return found

    # ---------------------------------------------------------------- replies

    def collect(self, replies: Iterable[Message]) -> list[Message]:
        """What the strategy is to aggregate; no memory and no receipt changes here.

        At most one message a node, in the order of the nodes' numbers: the decoded reply, or one
        with an error if the node failed. Of a node that is silent, or whose reply is of another
        attempt, there is none.
        """
        errors: dict[int, Message] = {}
        causes: dict[int, str] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in self._asked:
                # Nobody asked this node; but Flower's mods send errors in the server's own name.
                if reply.has_error() and not self.copies.knows(node):
                    self.strays.append(reason_of(reply))
                continue
            if reply.has_error():
                reason, own = reason_of(reply), fault_of_the_app(reply)
                alike = self.faulty if own else self.unreachable
                told = reason if not alike else reason.splitlines()[-1]
                causes[node] = f"the client raised: {told}" if own else f"no reply: {told}"
                alike[node] = reason
                errors[node] = reply
                continue
            try:
                self._uploads[node] = self._reader.read(reply, self._asked[node])
            except Rejected as error:
                causes.setdefault(node, str(error))
                continue
            except ValueError as error:  # WireError, ProtocolError and malformed records
                causes[node] = self.faulty[node] = f"malformed reply: {error}"
                errors[node] = client_error(causes[node], self._sent[node])
                continue
            self.copies.ledger.close(self._asked[node].number)
        for node in self._uploads:
            self.faulty.pop(node, None)
            self.unreachable.pop(node, None)
        contents = {
            n: self._uploads[n].message.content for n in self._ordered if n in self._uploads
        }
        for node, reason in self.demands.unfit(contents).items():
            del self._uploads[node]
            causes[node] = self.faulty[node] = f"malformed reply: {reason}"
            errors[node] = client_error(causes[node], self._sent[node])
        self.failures = [
            f"node {node}: {causes.get(node, 'no reply')}"
            for node in self._ordered
            if node not in self._uploads
        ]
        self.failures += [f"a client that cannot be named: {reason}" for reason in self.strays]
        return [
            self._uploads[node].message if node in self._uploads else errors[node]
            for node in self._ordered
            if node in self._uploads or node in errors
        ]

    @property
    def _ordered(self) -> list[int]:
        return sorted(self._asked, key=lambda node: self._asked[node].number)

    @property
    def hopeless(self) -> str | None:
        """The first reason, if every client of the round failed by its own fault."""
        reasons = [*self.faulty.values(), *self.strays]
        return reasons[0] if reasons and len(reasons) >= len(self._asked) else None

    @property
    def outage(self) -> str | None:
        """The first reason, if no client could be reached, with an error of Flower's for each."""
        reasons = [*self.unreachable.values(), *self.faulty.values(), *self.strays]
        down = self.unreachable and len(reasons) >= len(self._asked)
        return reasons[0] if down else None

    def commit(self) -> None:
        """The replies are used: copies and receipts follow, all together."""
        tags = {}
        for node, upload in self._uploads.items():
            number = self._asked[node].number
            self.copies.commit(number, upload.g)
            tags[number] = upload.tag
        if tags:
            self.copies.ledger.commit(tags)

    def as_sent(self, arrays: ArrayRecord) -> ArrayRecord:
        """Aggregated arrays in the types in which they were sent, see `in_types`."""
        sent = {k: a.dtype for one in self._asked.values() for k, a in one.model.record.items()}
        return in_types(arrays, sent)
