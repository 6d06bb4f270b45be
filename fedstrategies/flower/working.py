"""What a client works on, what it measures, and how it pays where its data are private."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import torch
from flwr.app import Context
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower.account import Account, work_of
from fedstrategies.flower.control import unpack_constants
from fedstrategies.flower.on_device import step_on_device
from fedstrategies.flower.records import CONTROL, LEDGER
from fedstrategies.flower.rules import ClientRule
from fedstrategies.flower.spending import (
    Payer,
    charge_unheard,
    payer_of,
    recall,
    save_spending,
    say_that_noise_is_simulated,
)
from fedstrategies.objectives import Objective
from fedstrategies.privacy import Privacy, PrivateObjective
from fedstrategies.wire import decode_vector

__all__ = ["WorkingClient"]


class WorkingClient:
    """The half of a client that touches its data; `BaseClient` is the half that talks.

    Parameters
    ----------
    context, objective, evaluation, privacy
        See `fedstrategies.flower.BaseClient`.

    Attributes
    ----------
    objective : Objective
        What the client trains on.
    private : PrivateObjective or None
        What is charged for it.
    """

    def __init__(
        self,
        context: Context,
        *,
        objective: Objective,
        evaluation: Objective | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        self.context = context
        self.objective = objective
        self.evaluation = objective if evaluation is None else evaluation
        self.privacy = privacy
        self.private: PrivateObjective | None = None
        if privacy is not None:
            secret = privacy.new_secret(int(context.node_config.get("partition-id", 0)))
            self.private = privacy.private(objective, secret=secret)
            self.objective = self.private
            recall(context.state, self.private)
            if privacy.simulated:
                say_that_noise_is_simulated()

    @property
    def payer(self) -> Payer | None:
        """Where what leaves the node is charged (default: the private objective); None: nowhere."""
        return self.private

    @property
    def withholds(self) -> bool:
        """Whether losses and accuracies stay on the node, because its data are private."""
        return self.privacy is not None and not self.privacy.simulated

    def outgoing(self, payload: Payload, rule: ClientRule, x: Tensor) -> Payload:
        """What is sent in place of a rule's message (default: that); charged to `payer`."""
        return payload

    def at_work(self, rule: ClientRule) -> Objective:
        """What a rule works on (default: ``objective``).

        A private client that overrides it returns an objective that is private as well, with the
        secret and the ledger of ``private``; see `releasing`.
        """
        return self.objective

    def releasing(self, coordinates: Tensor) -> PrivateObjective:
        """The private objective of which only some coordinates are trained and released.

        Parameters
        ----------
        coordinates : Tensor
            bool, shape (d,); clipping is joint over them.

        Raises
        ------
        ValueError
            If the client is not private.
        """
        if self.privacy is None or self.private is None:
            raise ValueError("a client without privacy has no releases to restrict")
        return self.privacy.private(
            self.private.objective,
            secret=self.private.secret,
            ledger=self.private.ledger,
            coordinates=coordinates,
        )

    def measure(self, x: Tensor, constants: tuple[float, ...]) -> dict[str, float]:
        """What `evaluate` reports of the received model, ``loss`` among it.

        ``constants`` are what the strategy's ``evaluation_constants`` gave for this client.
        """
        batch = self.evaluation.as_batch
        return {"loss": float(batch.values(x)[0]), "accuracy": float(batch.accuracy(x)[0])}

    # ---------------------------------------------------------------- internals

    def _step(
        self,
        rule: ClientRule,
        memory: Mapping[str, Tensor],
        x: Tensor,
        key: int,
        config: Mapping[str, object],
    ) -> tuple[Payload, float]:
        """The upload and its loss; what was released on the way is on the node's record.

        Raises
        ------
        BudgetSpent
            If the budget does not last: nothing of this step may leave the node.
        """
        keys, account = torch.tensor([key]), self.payer
        if account is None:
            payload, losses = step_on_device(rule, memory, x, self.at_work(rule).as_batch, keys)
            return payload, float(losses[0])
        told = Account.from_bytes(config.get(LEDGER, b""))
        unheard = recall(self.context.state, account, told)
        objective = self.at_work(rule)
        payer: Payer | None = account if self.private is None else payer_of(objective)
        if payer is None:
            raise ValueError(f"{type(self).__name__}.at_work gives up the client's privacy")
        before = payer.ledger.releases
        try:
            payload, losses = step_on_device(rule, memory, x, objective.as_batch, keys)
            payload = self.outgoing(payload, rule, x)
            made = payer.ledger.releases - before
            charge_unheard(payer, unheard, made=made, work=work_of(rule))
        finally:
            # Charges last, whatever became of the releases.
            account.restore(payer.ledger)
            save_spending(self.context.state, account)
        return payload, nan if self.withholds else float(losses[0])

    def _ledger(self) -> dict[str, bytes]:
        """The ledger for the server, from the node's record; nothing without privacy."""
        account = self.payer
        if account is None:
            return {}
        recall(self.context.state, account)
        return {LEDGER: account.ledger.to_bytes()}

    def _evaluate(self, blob: bytes, config: Mapping[str, object]) -> dict[str, float]:
        """What may be told of a model; nothing where the data are private and not simulated."""
        if self.withholds:
            return {}
        x = decode_vector(blob, dimension=self.objective.dimension)
        packed = config.get(CONTROL, b"")
        constants = unpack_constants(packed if isinstance(packed, bytes) else b"")
        if self.private is None:
            return self.measure(x, constants)
        recall(self.context.state, self.private)
        before = self.private.ledger
        measured = self.measure(x, constants)
        if self.private.ledger != before:
            # Whatever trains to be measured is charged like all training.
            save_spending(self.context.state, self.private)
        return measured
