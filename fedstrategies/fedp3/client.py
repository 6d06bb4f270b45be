"""The client of FedP3."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import Context
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.fedp3.algorithm import FedP3Rule
from fedstrategies.fedp3.head import PersonalHead
from fedstrategies.fedp3.model_groups import groups_of
from fedstrategies.fedp3.settings import rule_of
from fedstrategies.flower import BaseClient, ClientRule
from fedstrategies.flower.personal_metrics import PERSONAL
from fedstrategies.flower.spending import Payer
from fedstrategies.memoryless import whole
from fedstrategies.objectives import Objective
from fedstrategies.privacy import MessagePrivacy, MessageReleases
from fedstrategies.pruning import LayerGroups
from fedstrategies.random import Purpose, client_keys

__all__ = ["FedP3Client"]


class FedP3Client(BaseClient):
    """Trains the model it was sent and answers with the layers that are its own.

    With ``privacy`` every local step is one release of the gradient in L_i, and so is what it
    tells of activations when the server asks for them.

    Parameters
    ----------
    context : flwr.app.Context
        The node's context, as ``client_fn`` receives it.
    objective : Objective
        The client's f_i.
    groups : LayerGroups or None
        The same layer groups as the strategy's; None: those of `groups_of`.
    message_privacy : MessagePrivacy or None
        The client clips its move and adds noise itself, against the server: privacy of all its
        records together. (On the strategy the same settings make the server add the noise.)
    **base
        See `fedstrategies.flower.BaseClient`.

    Raises
    ------
    ValueError
        For both kinds of privacy at once.

    References
    ----------
    Yi, Gazagnadou, Richtarik, Lyu, "FedP3: Federated Personalized and Privacy-friendly Network
    Pruning under Model Heterogeneity" (ICLR 2024).

    Examples
    --------
    After the example of `TorchObjective`, with its network of three layers:

    >>> from flwr.app import ArrayRecord
    >>> from fedstrategies import CohortGrid, FedP3, FedP3Client, client_app
    >>> from fedstrategies.pruning import layer_groups
    >>> def client_fn(context):
    ...     return FedP3Client(context, objective=f[context.node_config["partition-id"]])
    >>> app, x0 = client_app(client_fn), ArrayRecord(f[0].initial_arrays())
    >>> groups = layer_groups(module)
    >>> groups.names
    ('0', '2', '3')
    """

    def __init__(
        self,
        context: Context,
        *,
        objective: Objective,
        groups: LayerGroups | None = None,
        message_privacy: MessagePrivacy | None = None,
        **base: Any,
    ) -> None:
        super().__init__(context, objective=objective, **base)
        self.groups = groups_of(objective) if groups is None else groups
        self.messages: MessageReleases | None = None
        if message_privacy is not None:
            if self.private is not None:
                raise ValueError("give privacy (of records) or message_privacy (of clients)")
            partition = int(context.node_config.get("partition-id", 0))
            self.messages = MessageReleases(
                settings=message_privacy, secret=message_privacy.new_secret(partition)
            )

    @property
    def payer(self) -> Payer | None:
        """The private objective, or the account of messages that are hidden."""
        return self.private if self.messages is None else self.messages

    @property
    def withholds(self) -> bool:
        """Whether losses and accuracies stay on the node."""
        hidden = self.messages is not None and not self.messages.settings.simulated
        return hidden or super().withholds

    def outgoing(self, payload: Payload, rule: ClientRule, x: Tensor) -> Payload:
        """The layers in L_i, clipped and with noise of the node's own under message privacy."""
        if self.messages is None:
            return payload
        assert isinstance(rule, FedP3Rule)
        before = x[rule.downlink.own]
        return whole((before + self.messages.hide(payload.dense()[0] - before)).unsqueeze(0))

    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The client half, see `fedstrategies.fedp3.settings`.

        Raises
        ------
        ValueError
            If the server asks for anything else, or for activations of a client that hides its
            messages.
        """
        rule = rule_of(constants, spec, self.groups)
        if rule.activations is not None and self.messages is not None:
            raise ValueError(
                "the server asks for activations, and message_privacy hides moves of the model "
                "only; leave the strategy's calibration out, or protect records (privacy)"
            )
        return rule

    def at_work(self, rule: ClientRule) -> Objective:
        """f_i; a private client releases L_i alone, clipped jointly over it.

        Raises
        ------
        ValueError
            If the server asks a private client to train layers that it does not send.
        """
        assert isinstance(rule, FedP3Rule)
        if self.private is None or all(rule.downlink.assigned):
            return self.objective
        if rule.trained != "assigned":
            raise ValueError(
                "a private client trains what it releases, the layers in L_i: others that it "
                "trained would enter the next gradients and are not charged; use LDPFedP3"
            )
        return self.releasing(rule.downlink.own)

    def measure(self, x: Tensor, constants: tuple[float, ...]) -> dict[str, float]:
        """Loss and accuracy of the server's model, and those of a personal head beside them.

        Parameters
        ----------
        x : Tensor
            Server model, shape (d,).
        constants : tuple of float
            Empty, or steps and step size of a personal head.

        Raises
        ------
        ValueError
            If a private client is to tune a head.
        """
        measured = super().measure(x, ())
        if constants and self.private is not None:
            raise ValueError(
                "a personal head is trained on private rows, outside of what is charged; leave it "
                "out, or privacy"
            )
        if constants:
            steps, stepsize = constants
            partition = torch.tensor([int(self.context.node_config.get("partition-id", 0))])
            tuned = PersonalHead(steps=int(steps), stepsize=stepsize).tuned(
                x,
                self.objective,
                self.groups,
                client_keys(0, 0, partition, Purpose.LOCAL_OPTIMUM),
            )
            measured[PERSONAL] = float(self.evaluation.accuracy(tuned))
        return measured
