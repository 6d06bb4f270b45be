"""A round of compressed updates: what is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedstrategies.flower.compressed_copies import Copies
from fedstrategies.flower.compressed_reply import STEP
from fedstrategies.flower.control import (
    MemoryCommand,
    Request,
    Response,
    Status,
    Tag,
    unpack_constants,
)
from fedstrategies.flower.counters import ByteCounters
from fedstrategies.flower.errors import reason_of
from fedstrategies.flower.flat_update import FlatModel, in_types, only_arrays
from fedstrategies.flower.ledger import Rejected
from fedstrategies.flower.private import client_error
from fedstrategies.flower.records import CONTROL, MEMORY, blob_of, bytes_under, raw_array
from fedstrategies.random import Purpose, client_keys
from fedstrategies.wire import decode, encode_vector

__all__ = ["CompressedRound"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What a node was asked."""

    number: int
    model: FlatModel


@dataclass(frozen=True, kw_only=True, eq=False)
class _Upload:
    """A reply that counts."""

    tag: Tag
    g: Tensor | None
    message: Message


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

    Attributes
    ----------
    requests : list of Message
        The messages, with control fields.
    failures : list of str
        One line per client whose reply is not used.
    faulty : dict of int to str
        Nodes that failed by their own fault, and how.
    strays : list of str
        Errors of clients that cannot be named.
    """

    def __init__(
        self, messages: list[Message], copies: Copies, *, seed: int, bytes: ByteCounters
    ) -> None:
        self.copies = copies
        self.bytes = bytes
        self.failures: list[str] = []
        self.faulty: dict[int, str] = {}
        self.strays: list[str] = []
        self._uploads: dict[int, _Upload] = {}
        self._asked: dict[int, _Asked] = {}
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
            self._asked[node] = _Asked(number=copies.number(node), model=models[id(record)])
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
        self.bytes.downlink += len(request) + _size(asked.model.record)
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
                reason = reason_of(reply)
                told = reason if not self.faulty else reason.splitlines()[-1]
                causes[node], self.faulty[node] = f"the client raised: {told}", reason
                errors[node] = reply
                continue
            try:
                self._uploads[node] = self._read(reply, node)
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

    def _read(self, reply: Message, node: int) -> _Upload:
        """Decode and judge one reply.

        Raises
        ------
        Rejected
            If it is of another attempt, a duplicate, or its client's memory is lost.
        ValueError
            If it is not what `CompressionMod` sends.
        """
        asked, ledger = self._asked[node], self.copies.ledger
        fields = reply.content.get(CONTROL)
        control = fields.get(CONTROL) if isinstance(fields, ConfigRecord) else None
        if not isinstance(fields, ConfigRecord) or not isinstance(control, bytes):
            raise ValueError(
                "it carries no fedstrategies control fields; give the ClientApp of this node "
                "CompressionMod(...) as the first of its mods"
            )
        content = {k: v for k, v in reply.content.items() if k != CONTROL}
        told = fields.get(STEP, b"")
        told = told if isinstance(told, bytes) else b""
        arrays = ArrayRecord()
        name, blob = "", b""
        response = Response.from_bytes(control)
        if response.status is Status.UPLOAD:
            name, arrays = only_arrays(RecordDict(content), "the reply")
            if CONTROL in arrays:
                blob = bytes_under(blob_of(arrays[CONTROL]))
        self.bytes.uplink += len(control) + len(told) + _size(arrays)
        try:
            tag = ledger.judge(asked.number, response, blob)
        except Rejected:
            if response.status is Status.LOST and response.attempt == ledger.attempt:
                ledger.require_recovery(asked.number, MemoryCommand.TAKE)
            raise
        update, g = self._decoded(asked, blob, told, node)
        rest = {key: array for key, array in arrays.items() if key != CONTROL}
        message = copy(reply)
        message.content = RecordDict({**content, name: asked.model.moved_by(update, rest)})
        return _Upload(tag=tag, g=g, message=message)

    def _decoded(
        self, asked: _Asked, blob: bytes, told: bytes, node: int
    ) -> tuple[Tensor, Tensor | None]:
        """The client's update as the server knows it, and its memory from now on."""
        constants = unpack_constants(told)
        if len(constants) != 1 or not 0.0 <= constants[0] <= 1.0:
            raise ValueError(f"the memory moves by {constants}, expected one number from 0 to 1")
        (step,) = constants
        x = asked.model.x
        payload = decode(blob, dimension=len(x), name=f"upload of node {node}")
        kind = payload.values.to_tensor().dtype
        if kind != x.dtype:
            raise ValueError(f"an upload of {kind} for a model of {x.dtype}")
        if step == 0.0:
            return payload.dense()[0], None
        before = self.copies.memory(asked.number)
        g = (torch.zeros_like(x) if before is None else before.clone())[None]
        payload.add_to_(g, step)
        return g[0], g[0]


def _size(arrays: ArrayRecord) -> int:
    return sum(len(array.data) for array in arrays.values())
