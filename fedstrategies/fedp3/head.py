"""The personal head: a copy of the classifier that a client fine-tunes for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.fedp3.algorithm import LocalTraining
from fedstrategies.objectives import Objective
from fedstrategies.pruning import LayerGroups

__all__ = ["PersonalHead"]


@dataclass(frozen=True, kw_only=True)
class PersonalHead:
    """After the last round each client fine-tunes the classifier of its copy of the model.

    The copy stays where it is; it is measured as ``accuracy_personal``.

    Attributes
    ----------
    steps : int
        Local (stochastic) gradient steps, at least 1.
    stepsize : float
        Of each.

    Raises
    ------
    ValueError
        If there is no step, or the step size is not positive.
    """

    steps: int
    stepsize: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"personal head: steps = {self.steps}, at least one is needed")
        LocalTraining(stepsize=self.stepsize)

    def tuned(self, x: Tensor, objective: Objective, groups: LayerGroups, key: Tensor) -> Tensor:
        """The model (d,) with the fine-tuned classifier.

        Parameters
        ----------
        x : Tensor
            The server's model, shape (d,).
        objective : Objective
            The client's f_i.
        groups : LayerGroups
            Of the model.
        key : Tensor
            int64, shape (1,): the stream of the mini-batches.
        """
        only = torch.zeros(len(groups), dtype=torch.bool)
        only[groups.classifier] = True
        points, _ = LocalTraining(stepsize=self.stepsize).run(
            x,
            objective.as_batch,
            groups,
            steps=torch.tensor([self.steps]),
            keys=key,
            trainable=groups.expand(only),
        )
        return points[0]
