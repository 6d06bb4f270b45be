"""The client half of the shell: a NumPyClient whose memory survives rounds and lost replies."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from typing import cast, overload

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient

from fedstrategies.flower.control import Request, Response, Status
from fedstrategies.flower.rank import answer, partition_of
from fedstrategies.flower.receipts import Decision, Receipts
from fedstrategies.flower.receiving import Arrays, ReceivingClient, Scalar
from fedstrategies.flower.records import (
    CONTROL,
    LEDGER,
    blob_of,
    bytes_under,
    load_receipts,
    raw_array,
    records_of,
    replica_records,
    save_state,
    single_config,
)
from fedstrategies.privacy import BudgetSpent
from fedstrategies.wire import encode

__all__ = ["BaseClient"]


class BaseClient(ReceivingClient, NumPyClient):
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
