"""One attempt at a communication round: by messages, or for all clients in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower.contract import Assignment, CohortSession, Delivery
from fedstrategies.flower.errors import AllClientsFailed
from fedstrategies.flower.ledger import Rejected
from fedstrategies.flower.receipts import MemoryCommand, Request, Response, Status, Tag
from fedstrategies.flower.records import CONTROL, blob_of, raw_array, single_config
from fedstrategies.random import Purpose, client_keys
from fedstrategies.wire import decode, encode_vector, encoded_sizes

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["Attempt", "BatchedRound", "MessageRound"]


class Attempt:
    """What both kinds share: the plan, the failures and who is to blame.

    Attributes
    ----------
    round : int
        Communication round t.
    failures : list of str
        One line per client whose upload is not used.
    must_reset : bool
        A memory is lost and the server has no copy.
    """

    def __init__(self, strategy: BaseStrategy, round: int) -> None:
        self.strategy = strategy
        self.round = round
        self.plan = strategy.plan(round)
        self.failures: list[str] = []
        self.must_reset = False
        self._faulty: dict[int, str] = {}
        strategy.ledger.open_attempt(
            [int(p) for a in self.plan for p in a.partition_ids] if self._by_message else []
        )

    _by_message = False

    @property
    def asked(self) -> int:
        """Clients in the cohort."""
        return sum(len(assignment.partition_ids) for assignment in self.plan)

    def raise_if_hopeless(self) -> None:
        """Raise if every client of the cohort failed by its own fault (not by a lost message)."""
        if self._faulty and len(self._faulty) == self.asked:
            raise AllClientsFailed(
                f"round {self.round}: all {self.asked} clients failed; the first said: "
                f"{self._faulty[min(self._faulty)]}"
            )

    def record_receipts(self) -> None:
        """Tell the ledger which uploads were used."""
        raise NotImplementedError

    def keys(self, assignment: Assignment) -> Tensor:
        """The round's random stream of each client of an assignment: int64, shape (C,)."""
        return client_keys(self.strategy.seed, self.round, assignment.partition_ids, Purpose.CLIENT)

    def request(self, assignment: Assignment, partition: int, key: int) -> Request:
        """The control fields for one client, without recovery."""
        ledger = self.strategy.ledger
        return Request(
            session=ledger.session,
            sequence=ledger.sequence,
            round=self.round,
            key=key,
            ack=ledger.accepted(partition),
            constants=assignment.constants,
            spec=assignment.spec,
            settlement=partition in assignment.settlements,
        )


class MessageRound(Attempt):
    """An attempt over Flower messages.

    Attributes
    ----------
    contents : list of RecordDict
        Replies that are used, in partition order.
    """

    _by_message = True

    def __init__(self, strategy: BaseStrategy, round: int) -> None:
        super().__init__(strategy, round)
        self.contents: list[RecordDict] = []
        self._partition_at: dict[int, int] = {}
        self._tags: dict[int, Tag] = {}

    def messages(
        self, nodes: dict[int, int], config: ConfigRecord, server_round: int
    ) -> list[Message]:
        """One message for each client of the cohort that is connected."""
        blob = encode_vector(self.strategy.x)
        model = raw_array(blob)
        shared = ArrayRecord({"0": model})
        user = {**config, "server-round": server_round}
        counters = self.strategy.bytes
        messages = []
        for assignment in self.plan:
            keys = self.keys(assignment).tolist()
            for partition, key in zip(assignment.partition_ids.tolist(), keys, strict=True):
                node = nodes.get(partition)
                if node is None:
                    self.failures.append(f"partition {partition}: not connected")
                    self.strategy.ledger.close(partition)
                    continue
                request, recovery = self._with_recovery(
                    self.request(assignment, partition, key), partition
                )
                control = request.to_bytes()
                extra = [*recovery, *self._settlement(assignment, partition)]
                arrays = (
                    ArrayRecord({str(i): a for i, a in enumerate([model, *map(raw_array, extra)])})
                    if extra
                    else shared
                )
                counters.recovery += sum(map(len, recovery))
                counters.downlink += len(blob) + len(control)
                counters.downlink += sum(map(len, extra[len(recovery) :]))
                self._partition_at[node] = partition
                content = RecordDict(
                    {
                        self.strategy.arrayrecord_key: arrays,
                        self.strategy.configrecord_key: ConfigRecord({**user, CONTROL: control}),
                    }
                )
                messages.append(Message(content, dst_node_id=node, message_type=MessageType.TRAIN))
        return messages

    def _with_recovery(self, request: Request, partition: int) -> tuple[Request, list[bytes]]:
        command = self.strategy.ledger.recovery(partition)
        if command is MemoryCommand.KEEP:
            return request, []
        blobs = []
        if command is MemoryCommand.TAKE:
            assert self.strategy.memory is not None
            blobs = [encode_vector(value[partition]) for value in self.strategy.memory.values()]
        return (
            Request(**{**request.__dict__, "memory": command, "settlement": False}),
            blobs,
        )

    @staticmethod
    def _settlement(assignment: Assignment, partition: int) -> list[bytes]:
        vector = assignment.settlements.get(partition)
        return [] if vector is None else [encode_vector(vector)]

    def collect(self, replies: Iterable[Message]) -> list[Delivery]:
        """Decode and judge every reply; nothing of the strategy's state changes here."""
        payloads: dict[int, Payload] = {}
        contents: dict[int, RecordDict] = {}
        causes: dict[int, str] = {}
        x = self.strategy.x
        kinds = {
            partition: kind
            for assignment in self.plan
            for kind in [assignment.rule.template(len(x), x.dtype).kind]
            for partition in assignment.partition_ids.tolist()
        }
        for reply in replies:
            partition = self._partition_at.get(reply.metadata.src_node_id)
            if partition is None:
                continue  # nobody asked this node in this attempt
            if reply.has_error():
                reason = reply.error.reason or "no reason given"
                causes[partition] = f"the client raised: {reason}"
                self._faulty[partition] = reason
                continue
            try:
                tag, payload = self._read(reply.content, partition, kinds[partition])
            except Rejected as error:
                causes.setdefault(partition, str(error))
            except ValueError as error:  # WireError, ProtocolError and malformed records
                cause = f"malformed reply: {error}"
                causes[partition] = self._faulty[partition] = cause
            else:
                self._tags[partition] = tag
                payloads[partition] = payload
                contents[partition] = reply.content
                self.strategy.ledger.close(partition)
        for node, partition in sorted(self._partition_at.items(), key=lambda item: item[1]):
            if partition not in payloads:
                why = causes.get(partition, "no reply")
                self.failures.append(f"partition {partition} (node {node}): {why}")
        self.contents = [contents[partition] for partition in sorted(contents)]
        return [
            delivery
            for assignment in self.plan
            if (delivery := _deliver(assignment, payloads)) is not None
        ]

    def _read(
        self, content: RecordDict, partition: int, expected: tuple[object, ...]
    ) -> tuple[Tag, Payload]:
        control = single_config(content)[CONTROL]
        blobs = [
            blob_of(array).tobytes()
            for record in content.array_records.values()
            for array in record.values()
        ]
        if not isinstance(control, bytes) or len(blobs) > 1:
            raise ValueError("expected one control field of bytes and at most one blob")
        blob = blobs[0] if blobs else b""
        self.strategy.bytes.uplink += len(blob) + len(control)
        response = Response.from_bytes(control)
        try:
            tag = self.strategy.ledger.judge(partition, response, blob)
        except Rejected:
            if response.status is Status.LOST:
                self._recover(partition, response)
            raise
        dimension = len(self.strategy.x)
        payload = decode(blob, dimension=dimension, name=f"upload of partition {partition}")
        if payload.kind != expected:
            raise ValueError(f"upload is of kind {payload.kind}, expected {expected}")
        return tag, payload

    def _recover(self, partition: int, response: Response) -> None:
        ledger = self.strategy.ledger
        if (response.session, response.sequence) != (ledger.session, ledger.sequence):
            return
        if self.strategy.memory is None:
            self.must_reset = True
        else:
            ledger.require_recovery(partition, MemoryCommand.TAKE)

    def record_receipts(self) -> None:
        """Tell the ledger which uploads were used."""
        self.strategy.ledger.commit(self._tags)


class BatchedRound(Attempt):
    """An attempt for all clients in one call, with the bytes it would have sent.

    Parameters
    ----------
    strategy : BaseStrategy
        Whose copy of the memories is the memory itself.
    session : CohortSession
        The grid's clients.
    """

    def __init__(self, strategy: BaseStrategy, round: int, session: CohortSession) -> None:
        super().__init__(strategy, round)
        self.session = session
        self._losses: list[Tensor] = []
        self._deliveries: list[Delivery] = []

    def step(self) -> list[Delivery]:
        """Every client's message, and the byte counters that go with it."""
        strategy, objective = self.strategy, self.session.objective
        assert strategy.memory is not None
        for assignment in self.plan:
            rows = assignment.partition_ids
            everyone = len(rows) == strategy.clients
            payload, losses = assignment.rule.step(
                strategy.memory,
                strategy.x,
                objective,
                self.keys(assignment),
                clients=None if everyone else rows,
            )
            self._count(assignment, payload)
            rows, payload, losses = self._drop_non_finite(rows, payload, losses)
            if len(rows):
                self._losses.append(losses)
                self._deliveries.append(
                    Delivery(assignment=assignment, partition_ids=rows, payload=payload)
                )
        return self._deliveries

    def _count(self, assignment: Assignment, payload: Payload) -> None:
        count = len(assignment.partition_ids)
        control = len(self.request(assignment, int(assignment.partition_ids[0]), 0).to_bytes())
        x = self.strategy.x
        frame = int(encoded_sizes(Payload(dimension=len(x), values=Floats(x.unsqueeze(0)))))
        self.strategy.bytes.downlink += count * (frame + control)
        self.strategy.bytes.uplink += int(encoded_sizes(payload).sum()) + count * Response.SIZE

    def _drop_non_finite(
        self, rows: Tensor, payload: Payload, losses: Tensor
    ) -> tuple[Tensor, Payload, Tensor]:
        """What the wire would refuse is a failure here too."""
        if payload.is_finite():
            return rows, payload, losses
        finite = torch.isfinite(payload.values.to_tensor()).all(dim=1)
        reason = "its upload is not finite"
        for partition in rows[~finite].tolist():
            self.failures.append(f"partition {partition}: {reason}")
            self._faulty[partition] = reason
        return rows[finite], payload.rows(finite), losses[finite]

    def record_receipts(self) -> None:
        """Tell the ledger which uploads were used."""
        for delivery in self._deliveries:
            self.strategy.ledger.commit_batch(delivery.partition_ids)

    def metrics(self) -> MetricRecord:
        """The weighted mean loss, summed in partition order as the message path does."""
        rows = np.concatenate([delivery.partition_ids.numpy() for delivery in self._deliveries])
        losses = np.concatenate([losses.numpy() for losses in self._losses])
        if len(self._deliveries) > 1:
            order = rows.argsort()
            rows, losses = rows[order], losses[order]
        weights = self.session.objective.num_examples.numpy()[rows].astype(np.float64)
        return MetricRecord({"loss": float(np.cumsum(losses * (weights / weights.sum()))[-1])})


def _deliver(assignment: Assignment, payloads: dict[int, Payload]) -> Delivery | None:
    present = [p for p in assignment.partition_ids.tolist() if p in payloads]
    if not present:
        return None
    return Delivery(
        assignment=assignment,
        partition_ids=torch.tensor(present),
        payload=Payload.stack([payloads[p] for p in present]),
    )


def participants(deliveries: Sequence[Delivery]) -> int:
    """How many clients' uploads are used."""
    return sum(len(delivery.partition_ids) for delivery in deliveries)
