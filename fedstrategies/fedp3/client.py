"""The client of FedP3."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import Context
from torch import Tensor

from fedstrategies.fedp3.head import PersonalHead
from fedstrategies.fedp3.model_groups import groups_of
from fedstrategies.fedp3.settings import rule_of
from fedstrategies.flower import BaseClient, ClientRule
from fedstrategies.flower.personal_metrics import PERSONAL
from fedstrategies.objectives import Objective
from fedstrategies.pruning import LayerGroups
from fedstrategies.random import Purpose, client_keys

__all__ = ["FedP3Client"]


class FedP3Client(BaseClient):
    """Trains the model it was sent and answers with the layers that are its own.

    Parameters
    ----------
    context : flwr.app.Context
        The node's context, as ``client_fn`` receives it.
    objective : Objective
        The client's f_i.
    groups : LayerGroups or None
        The same layer groups as the strategy's; None: those of `groups_of`.
    **base
        See `fedstrategies.flower.BaseClient`.
    """

    def __init__(
        self,
        context: Context,
        *,
        objective: Objective,
        groups: LayerGroups | None = None,
        **base: Any,
    ) -> None:
        super().__init__(context, objective=objective, **base)
        self.groups = groups_of(objective) if groups is None else groups

    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The client half, see `fedstrategies.fedp3.settings`.

        Raises
        ------
        ValueError
            If the server asks for anything else.
        """
        return rule_of(constants, spec, self.groups)

    def measure(self, x: Tensor, constants: tuple[float, ...]) -> dict[str, float]:
        """Loss and accuracy of the server's model, and those of a personal head beside them.

        Parameters
        ----------
        x : Tensor
            Server model, shape (d,).
        constants : tuple of float
            Empty, or steps and step size of a personal head.
        """
        measured = super().measure(x, ())
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
