"""The client half of the shell: a NumPyClient whose memory survives rounds and lost replies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import isnan, nan
from typing import cast, overload

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from torch import Tensor

from fedstrategies.flower.control import (
    MemoryCommand,
    Request,
    Response,
    Status,
)
from fedstrategies.flower.rank import answer, partition_of
from fedstrategies.flower.receipts import Decision, Receipts
from fedstrategies.flower.records import (
    CONTROL,
    DOWNLINK,
    LEDGER,
    blob_of,
    bytes_under,
    load_memory,
    load_receipts,
    load_replica,
    raw_array,
    records_of,
    replica_records,
    save_state,
    single_config,
)
from fedstrategies.flower.replica import Replica, Route, rebuild
from fedstrategies.flower.rules import AssembledRule, ClientRule, GuidedRule
from fedstrategies.flower.working import WorkingClient
from fedstrategies.privacy import BudgetSpent
from fedstrategies.wire import decode, decode_vector, encode

__all__ = ["BaseClient"]

Scalar = bool | bytes | float | int | str
Arrays = list[npt.NDArray[np.uint8]]


class BaseClient(WorkingClient, NumPyClient):
    """A client of one of this suite's algorithms.

    It is built anew for every message (Flower does so), and keeps everything that must last in
    ``context.state``. Register it with `client_app`, or call `train` and `evaluate` from
    handlers of your own ``ClientApp``.

    Parameters
    ----------
    context : flwr.app.Context
        The node's context, as ``client_fn`` receives it.
    objective : Objective
        The client's f_i.
    evaluation : Objective or None
        The same loss on the examples that `evaluate` measures on; None: those of ``objective``.
    privacy : Privacy or None
        None: gradients are exact. Otherwise the client trains on private releases of f_i alone
        (`fedstrategies.privacy.PrivateObjective`), and every one of them is charged.

    Raises
    ------
    PrivacyError
        If the objective has no private gradients.
    """

    @abstractmethod
    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The algorithm's client half, from what the server sent.

        Raises
        ------
        ValueError
            If this client cannot follow (an unknown compressor, say).
        """

    def keep(self) -> None:
        """Put what else must last into ``context.state``; called after each upload (default: none).

        Records are replaced, never changed: engines hand out shallow copies of the state.
        """

    # ---------------------------------------------------------------- message API

    def train(self, message: Message, context: Context) -> Message:
        """Handle one train message (one attempt at a communication round)."""
        self.context = context
        config = single_config(message.content)
        (record,) = records_of(message.content, ArrayRecord)
        blobs = [blob_of(record[name]) for name in sorted(record, key=int)]
        arrays, examples, metrics = self.fit(blobs, cast(dict[str, Scalar], dict(config)))
        fields = {key: metrics.pop(key) for key in (CONTROL, LEDGER) if key in metrics}
        reply = RecordDict(
            {
                "arrays": ArrayRecord(
                    {str(i): raw_array(bytes_under(array)) for i, array in enumerate(arrays)}
                ),
                "config": ConfigRecord({**fields}),
                "metrics": MetricRecord(
                    {"num-examples": examples, **cast(dict[str, float], metrics)}
                ),
            }
        )
        return Message(reply, reply_to=message)

    def query(self, message: Message, context: Context) -> Message:
        """Tell which partition this node holds, or the rank it had if it was not told."""
        return answer(message, context)

    # ---------------------------------------------------------------- NumPyClient

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """As `query`, for Flower's older API."""
        return cast(dict[str, Scalar], partition_of(self.context))

    def fit(
        self, parameters: Arrays, config: dict[str, Scalar]
    ) -> tuple[Arrays, int, dict[str, Scalar]]:
        """One attempt: settle the pending upload, compute a new one, keep both receipts.

        Parameters
        ----------
        parameters : list of uint8 arrays
            The model's frame (several or none, if the rule assembles it or the downlink is
            compressed), then the recovery frames if the request orders a recovery, then the
            settlement's frame if it announces one.
        config : dict
            The control fields under ``"fedstrategies"``; under ``"fedstrategies.ledger"`` the
            server's copy of a private client's account; under ``"fedstrategies.downlink"`` how
            the model is to be rebuilt.

        Returns
        -------
        tuple
            The upload's frame (none if there is no upload), the number of examples, and the
            control fields, with the loss f_i(x) unless it is private, and the ledger if so.
        """
        request = Request.from_bytes(_control(config))
        receipts = load_receipts(self.context.state)
        decision = receipts.decide(request)
        if decision is Decision.RESEND:
            assert receipts.pending is not None
            return self._reply(request, receipts)
        if decision is Decision.STALE:
            return self._refuse(request, Status.STALE)
        if decision is Decision.LOST:
            save_state(self.context.state, receipts.after_lost(request), None)
            return self._refuse(request, Status.LOST)

        rule = self.rule(request.constants, request.spec)
        received = self._received(parameters, rule, request, config)
        if received is None:
            save_state(self.context.state, receipts.after_lost(request), None)
            return self._refuse(request, Status.BEHIND)
        x, extra, replica = received
        memory, changed = self._settle(decision, receipts, request, x, extra, rule)
        try:
            payload, loss = self._step(rule, memory, x, request.key, config)
        except BudgetSpent:
            save_state(self.context.state, receipts.after_lost(request), None)
            return self._refuse(request, Status.SPENT)
        blob = encode(payload)
        receipts = receipts.after_upload(request, blob, loss)
        # A node without memory commits nothing, and one that pays nothing may compute again.
        resends = bool(memory) or self.payer is not None
        kept = receipts if resends else receipts.without_blob()
        save_state(self.context.state, kept, memory if changed and memory else None)
        if replica is not None:
            self.context.state.update(replica_records(replica))
        self.keep()
        return self._reply(request, receipts)

    @overload
    def evaluate(self, parameters: Message, config: Context) -> Message: ...

    @overload
    def evaluate(
        self, parameters: Arrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]: ...

    def evaluate(
        self, parameters: Message | Arrays, config: Context | dict[str, Scalar]
    ) -> Message | tuple[float, int, dict[str, Scalar]]:
        """What `measure` says of the received model on this client's data.

        Called as ``evaluate(message, context)`` it answers with a message; called as
        ``evaluate(parameters, config)`` it is NumPyClient's method. A private client tells its
        number of examples and nothing else, unless its privacy is simulated: then it measures as
        if it were not private, outside of epsilon.
        """
        if isinstance(parameters, Message):
            (record,) = records_of(parameters.content, ArrayRecord)
            (array,) = record.values()
            assert isinstance(config, Context)
            self.context = config
            configs = records_of(parameters.content, ConfigRecord)
            known = {key: value for record in configs for key, value in record.items()}
            measured = self._evaluate(bytes_under(blob_of(array)), known)
            examples = self.evaluation.num_examples
            metrics = MetricRecord({"num-examples": examples, **measured})
            return Message(RecordDict({"metrics": metrics}), reply_to=parameters)
        assert not isinstance(config, Context)
        measured = self._evaluate(bytes_under(parameters[0]), config)
        return measured.pop("loss", nan), self.evaluation.num_examples, {**measured}

    # ---------------------------------------------------------------- internals

    def _received(
        self, arrays: Arrays, rule: ClientRule, request: Request, config: Mapping[str, Scalar]
    ) -> tuple[Tensor, Arrays, Replica | None] | None:
        """What to work at, what came behind it, and the version to keep; None: not to be had.

        That is the model (d,), sent as it is or to be rebuilt, or all vectors of a `GuidedRule`
        (r, d). A version is kept only where the downlink is compressed.
        """
        if DOWNLINK not in config:
            return *self._decoded(arrays, rule), None
        packed = config[DOWNLINK]
        route = Route.from_bytes(packed if isinstance(packed, bytes) else b"")
        if len(arrays) < route.frames:
            raise ValueError(f"{len(arrays)} frames came, the model alone has {route.frames}")
        replica = rebuild(
            load_replica(self.context.state),
            route,
            [bytes_under(blob) for blob in arrays[: route.frames]],
            session=request.session,
            dimension=self.objective.dimension,
        )
        return None if replica is None else (replica.w, arrays[route.frames :], replica)

    def _decoded(self, arrays: Arrays, rule: ClientRule) -> tuple[Tensor, Arrays]:
        """The model or the rule's vectors from their frames, and what came behind them."""
        dimension = self.objective.dimension
        if isinstance(rule, AssembledRule):
            count = len(rule.lengths)
            parts = [
                decode(bytes_under(blob), dimension=length, name=f"frame {place} of the model")
                for place, (blob, length) in enumerate(
                    zip(arrays[:count], rule.lengths, strict=True)
                )
            ]
            return rule.assemble(parts), arrays[count:]
        blob, extra = bytes_under(arrays[0]), arrays[1:]
        if not isinstance(rule, GuidedRule):
            return decode_vector(blob, dimension=dimension), extra
        return decode_vector(blob, dimension=rule.vectors * dimension).view(-1, dimension), extra

    def _settle(
        self,
        decision: Decision,
        receipts: Receipts,
        request: Request,
        x: Tensor,
        extra: Arrays,
        rule: ClientRule,
    ) -> tuple[Mapping[str, Tensor], bool]:
        """The memory from which the new upload is computed, and whether it must be stored."""
        dimension = self.objective.dimension

        def newborn(device: str) -> dict[str, Tensor]:
            where = torch.device(device)
            return rule.initial_memory(1, dimension, self.objective.dtype, where)

        if decision is Decision.REPLACE:
            if request.memory is MemoryCommand.ZERO:
                return newborn("cpu"), True
            return {
                name: decode_vector(bytes_under(blob), dimension=dimension).unsqueeze(0)
                for name, blob in zip(newborn("meta"), extra, strict=True)
            }, True
        stored = load_memory(self.context.state)
        memory = newborn("cpu") if stored is None else stored
        if decision is Decision.ROLL_BACK:
            return memory, False
        pending = receipts.pending
        assert pending is not None
        settled = decode(pending.blob, dimension=dimension, name="pending upload")
        settlement = (
            decode_vector(bytes_under(extra[-1]), dimension=dimension) if request.settlement else x
        )
        self.rule(pending.constants, pending.spec).commit_(memory, settled, settlement=settlement)
        return memory, True

    def _reply(self, request: Request, receipts: Receipts) -> tuple[Arrays, int, dict[str, Scalar]]:
        pending = receipts.pending
        assert pending is not None
        response = pending.response(request)
        blob = np.frombuffer(pending.blob, dtype=np.uint8)
        metrics: dict[str, Scalar] = {CONTROL: response.to_bytes(), **self._ledger()}
        if not isnan(pending.loss):
            metrics["loss"] = pending.loss
        return [blob], self.objective.num_examples, metrics

    def _refuse(self, request: Request, status: Status) -> tuple[Arrays, int, dict[str, Scalar]]:
        response = Response(
            status=status,
            session=request.session,
            sequence=request.sequence,
            round=request.round,
            base=0,
        )
        told = self._ledger() if status is Status.SPENT else {}
        return [], self.objective.num_examples, {CONTROL: response.to_bytes(), **told}


def _control(config: Mapping[str, Scalar]) -> bytes:
    value = config.get(CONTROL)
    if not isinstance(value, bytes):
        raise ValueError(
            "the message carries no fedstrategies control fields; this client works with the "
            "matching fedstrategies strategy on the server"
        )
    return value
