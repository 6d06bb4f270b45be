"""One reply of a client that compresses its updates: decoded and judged."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedstrategies.flower.compressed_copies import Copies
from fedstrategies.flower.compressed_demands import Demands
from fedstrategies.flower.compressed_reply import STEP
from fedstrategies.flower.control import MemoryCommand, Response, Status, Tag, unpack_constants
from fedstrategies.flower.counters import ByteCounters
from fedstrategies.flower.flat_update import FlatModel, only_arrays
from fedstrategies.flower.ledger import Rejected
from fedstrategies.flower.records import CONTROL, blob_of, bytes_under
from fedstrategies.wire import decode

__all__ = ["Asked", "ReplyReader", "Upload", "size_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What a node was asked."""

    number: int
    model: FlatModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """A reply that counts.

    Attributes
    ----------
    tag : Tag
        Under which it is recorded once it is used.
    g : Tensor or None
        The client's memory from then on, shape (d,); None: it has none.
    message : Message
        What the strategy gets.
    """

    tag: Tag
    g: Tensor | None
    message: Message


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplyReader:
    """Reads the replies of an attempt; nothing of a memory or a receipt changes here."""

    copies: Copies
    counters: ByteCounters
    demands: Demands

    def read(self, reply: Message, asked: Asked) -> Upload:
        """Decode and judge one reply.

        Raises
        ------
        Rejected
            If it is of another attempt, a duplicate, or its client's memory is lost.
        ValueError
            If it is not what `CompressionMod` sends, or not what the strategy asks for.
        """
        ledger = self.copies.ledger
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
        self.counters.uplink += len(control) + len(told) + size_of(arrays)
        try:
            tag = ledger.judge(asked.number, response, blob)
        except Rejected:
            if response.status is Status.LOST and response.attempt == ledger.attempt:
                ledger.require_recovery(asked.number, MemoryCommand.TAKE)
            raise
        update, g = self._decoded(asked, blob, told, reply.metadata.src_node_id)
        rest = {key: array for key, array in arrays.items() if key != CONTROL}
        message = copy(reply)
        message.content = RecordDict({**content, name: asked.model.moved_by(update, rest)})
        self.demands.require_weight(message.content)
        return Upload(tag=tag, g=g, message=message)

    def _decoded(
        self, asked: Asked, blob: bytes, told: bytes, node: int
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


def size_of(arrays: ArrayRecord) -> int:
    """Bytes of the arrays as they travel."""
    return sum(len(array.data) for array in arrays.values())
