"""An attempt over Flower messages."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower.account import read_ledger, work_of
from fedstrategies.flower.attempt import Attempt
from fedstrategies.flower.contract import Assignment, Delivery
from fedstrategies.flower.control import MemoryCommand, Request, Response, Status, Tag
from fedstrategies.flower.errors import reason_of
from fedstrategies.flower.ledger import Rejected, Spent
from fedstrategies.flower.private import fault_of_the_app
from fedstrategies.flower.rank import RANK_BYTES
from fedstrategies.flower.records import (
    CONTROL,
    DOWNLINK,
    LEDGER,
    blob_of,
    bytes_under,
    raw_array,
    records_of,
    single_config,
)
from fedstrategies.flower.update_norm import TooLarge
from fedstrategies.flower.uploads import Uploads
from fedstrategies.wire import encode, encode_vector

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["MessageRound"]


class MessageRound(Attempt):
    """An attempt over Flower messages.

    Attributes
    ----------
    contents : list of RecordDict
        Replies that are used, in partition order.
    """

    def __init__(self, strategy: BaseStrategy, round: int) -> None:
        super().__init__(strategy, round)
        strategy.ledger.open_attempt([int(p) for a in self.plan for p in a.partition_ids])
        self.contents: list[RecordDict] = []
        self._partition_at: dict[int, int] = {}
        self._tags: dict[int, Tag] = {}

    def messages(
        self, nodes: dict[int, int], config: ConfigRecord, server_round: int
    ) -> list[Message]:
        """One message for each client of the cohort that is connected."""
        user = {**config, "server-round": server_round}
        counters = self.strategy.bytes
        messages = []
        for assignment in self.plan:
            keys = self.keys(assignment).tolist()
            cargo = lru_cache(maxsize=None)(partial(self._cargo, assignment))
            for position, partition in enumerate(assignment.partition_ids.tolist()):
                node = nodes.get(partition)
                if node is None:
                    self.failures.append(f"partition {partition}: not connected")
                    self.strategy.ledger.close(partition)
                    continue
                request, recovery = self._with_recovery(
                    self.request(assignment, position, keys[position]), partition
                )
                control = request.to_bytes()
                extra = [*recovery]
                self._count_recovery(assignment, partition, request, recovery)
                if request.settlement:
                    extra.append(encode_vector(assignment.settlements[partition]))
                model = cargo(self._held(partition))
                self._count_model(assignment, partition, model)
                counters.downlink += len(control) + sum(map(len, extra[len(recovery) :]))
                fields = {CONTROL: control, **model.route, **self._account(partition)}
                rank = self.strategy.nodes.rank_field(node)
                counters.downlink += len(fields.get(LEDGER, b"")) + RANK_BYTES * len(rank)
                self.strategy.accounts.asked(
                    partition, request.sequence, work_of(assignment.rule_of(position))
                )
                self._partition_at[node] = partition
                content = RecordDict(
                    {
                        self.strategy.arrayrecord_key: model.with_frames(extra),
                        self.strategy.configrecord_key: ConfigRecord({**user, **fields, **rank}),
                    }
                )
                messages.append(Message(content, dst_node_id=node, message_type=MessageType.TRAIN))
        return messages

    def _held(self, partition: int) -> int:
        """The version of the model that a client holds, where the downlink is compressed."""
        broadcast = self.strategy.broadcast
        return 0 if broadcast is None else broadcast.held(partition)

    def _count_model(self, assignment: Assignment, partition: int, model: _Cargo) -> None:
        counters, broadcast = self.strategy.bytes, self.strategy.broadcast
        edition = self.edition_of(assignment)
        ordinary, repairs = model.size, 0
        if broadcast is not None and edition is not None:
            ordinary, repairs = broadcast.charge(partition, edition)
        counters.downlink += ordinary
        counters.recovery += repairs

    def _count_recovery(
        self, assignment: Assignment, partition: int, request: Request, recovery: list[bytes]
    ) -> None:
        """Memories sent again; after a restart what they are beyond an ordinary request."""
        counters, spared = self.strategy.bytes, 0
        if self.strategy.ledger.is_resumed(partition) and not request.settlement:
            settlement = assignment.settlements.get(partition)
            spared = 0 if settlement is None else len(encode_vector(settlement))
        counters.downlink += spared
        counters.recovery += sum(map(len, recovery)) - spared

    def _cargo(self, assignment: Assignment, held: int) -> _Cargo:
        """What clients of an assignment that hold the same version are sent."""
        edition = self.edition_of(assignment)
        if edition is None:
            return _Cargo([encode(frame) for frame in self.frames(assignment)], {})
        route, frames = edition.parcel(held)
        return _Cargo(frames, {DOWNLINK: route})

    def _account(self, partition: int) -> dict[str, bytes]:
        """What a private client is told of its own spending; nothing for others."""
        told = self.strategy.accounts.account(partition).to_bytes()
        return {LEDGER: told} if told else {}

    def _with_recovery(self, request: Request, partition: int) -> tuple[Request, list[bytes]]:
        """What the recovery orders, and its frames; a memory that is replaced needs no settling."""
        if self.strategy.memory is not None and not self.strategy.memory:
            # A method without client memory: nothing is committed, so nothing can be lost.
            return replace(request, memory=MemoryCommand.ZERO, settlement=False), []
        command = self.strategy.ledger.recovery(partition)
        if command is MemoryCommand.KEEP:
            return request, []
        blobs = []
        if command is MemoryCommand.TAKE:
            assert self.strategy.memory is not None
            blobs = [encode_vector(value[partition]) for value in self.strategy.memory.values()]
        return (
            replace(request, memory=command, settlement=False),
            blobs,
        )

    def collect(self, replies: Iterable[Message]) -> list[Delivery]:
        """Decode and judge every reply; nothing of the strategy's state changes here."""
        payloads: dict[int, Payload] = {}
        contents: dict[int, RecordDict] = {}
        causes: dict[int, str] = {}
        uploads = Uploads(self.plan, self.strategy.x)
        for reply in replies:
            partition = self._partition_at.get(reply.metadata.src_node_id)
            if partition is None:
                self._note_of_stranger(reply)
                continue  # nobody asked this node in this attempt
            if reply.has_error():
                causes[partition] = self._note_of_error(reply, partition)
                continue
            try:
                tag, payload = self._read(reply.content, partition, uploads)
            except Spent as error:
                self.spent.add(partition)
                causes[partition] = self.faulty[partition] = str(error)
            except TooLarge as error:
                causes[partition] = self.faulty[partition] = str(error)
            except Rejected as error:
                causes.setdefault(partition, str(error))
            except ValueError as error:  # WireError, ProtocolError and malformed records
                cause = f"malformed reply: {error}"
                causes[partition] = self.faulty[partition] = cause
            else:
                if self.strategy.broadcast is not None and self.edition is not None:
                    self.strategy.broadcast.confirm([partition], self.edition)
                self._tags[partition] = tag
                payloads[partition] = payload
                contents[partition] = reply.content
                self.strategy.ledger.close(partition)
        for partition in payloads:
            self.faulty.pop(partition, None)
            self.unreachable.pop(partition, None)
        for node, partition in sorted(self._partition_at.items(), key=lambda item: item[1]):
            if partition not in payloads:
                why = causes.get(partition, "no reply")
                self.failures.append(f"partition {partition} (node {node}): {why}")
        self.contents = [contents[partition] for partition in sorted(contents)]
        return uploads.deliveries(payloads)

    def _read(self, content: RecordDict, partition: int, uploads: Uploads) -> tuple[Tag, Payload]:
        config = single_config(content)
        control = config[CONTROL]
        blobs = [
            bytes_under(blob_of(array))
            for record in records_of(content, ArrayRecord)
            for array in record.values()
        ]
        if not isinstance(control, bytes) or len(blobs) > 1:
            raise ValueError("expected one control field of bytes and at most one blob")
        blob = blobs[0] if blobs else b""
        told = config.get(LEDGER, b"")
        self.strategy.bytes.uplink += len(blob) + len(control)
        self.strategy.bytes.uplink += len(told) if isinstance(told, bytes) else 0
        response = Response.from_bytes(control)
        self._note_spending(partition, response, config)
        try:
            tag = self.strategy.ledger.judge(partition, response, blob)
        except Rejected:
            if response.status is Status.LOST:
                self._recover(partition, response)
            if response.status in (Status.LOST, Status.BEHIND):
                self._forget_replica(partition, response)
            raise
        payload = uploads.decode(partition, blob)
        (excess,) = self.excesses(uploads.assignment_of(partition), payload)
        if excess:
            raise TooLarge(excess)
        return tag, payload

    def _note_spending(self, partition: int, response: Response, config: ConfigRecord) -> None:
        """Keep what a reply says of its client's ledger, whatever else becomes of the reply."""
        strategy, current = self.strategy, response.session == self.strategy.ledger.session
        if LEDGER in config:
            covered = response.sequence if current else 0
            strategy.accounts.heard(partition, read_ledger(config[LEDGER]), up_to=covered)
        elif response.status is Status.UPLOAD and current:
            strategy.accounts.heard_plain(partition, up_to=response.sequence)
        elif (
            response.status in (Status.LOST, Status.BEHIND)
            and response.attempt == strategy.ledger.attempt
        ):
            # Both are said before anything is computed. Of an older attempt neither is believed:
            # the node may have answered that one before it was wiped, and the answer got lost.
            strategy.accounts.released_nothing(partition, response.sequence)

    def _note_of_error(self, reply: Message, partition: int) -> str:
        """Whose fault an error is, and what the log says of it."""
        reason = reason_of(reply)
        own = fault_of_the_app(reply)
        alike = self.faulty if own else self.unreachable
        # The first traceback whole, of the others the line that says what it was.
        told = reason if not alike else reason.splitlines()[-1]
        alike[partition] = reason
        return f"the client raised: {told}" if own else f"no reply: {told}"

    def _note_of_stranger(self, reply: Message) -> None:
        """A late reply of a client that was not asked this time: its ledger, if it is sound."""
        partition = self.strategy.nodes.index_of(reply)
        if reply.has_error() or partition >= self.strategy.clients:
            return
        with suppress(ValueError, AssertionError):
            config = single_config(reply.content)
            control = config[CONTROL]
            assert isinstance(control, bytes)
            self._note_spending(partition, Response.from_bytes(control), config)

    def _recover(self, partition: int, response: Response) -> None:
        ledger = self.strategy.ledger
        if response.attempt != ledger.attempt:
            return
        if self.strategy.memory is None:
            self.must_reset |= ledger.may_reset(partition)
        else:
            ledger.require_recovery(partition, MemoryCommand.TAKE)

    def _forget_replica(self, partition: int, response: Response) -> None:
        """A client without its memory has no model either: restore both at once."""
        broadcast = self.strategy.broadcast
        if broadcast is None or response.attempt != self.strategy.ledger.attempt:
            return
        if response.status is Status.BEHIND:
            broadcast.fell_behind(partition)
        else:
            broadcast.forget(partition)

    def settle(self, settlement: Tensor) -> None:
        """Tell the ledger which uploads were used."""
        self.strategy.ledger.commit(self._tags)


class _Cargo:
    """The model's frames as several clients are sent them, and the fields that go with them."""

    def __init__(self, frames: list[bytes], route: dict[str, bytes]) -> None:
        self.route = route
        self.size = sum(map(len, frames))
        self._arrays = [raw_array(frame) for frame in frames]
        self._shared = self._record(self._arrays)

    def with_frames(self, extra: list[bytes]) -> ArrayRecord:
        """The record, one and the same for all who get no further frames."""
        return self._record([*self._arrays, *map(raw_array, extra)]) if extra else self._shared

    @staticmethod
    def _record(arrays: list[Array]) -> ArrayRecord:
        return ArrayRecord({str(i): array for i, array in enumerate(arrays)})
