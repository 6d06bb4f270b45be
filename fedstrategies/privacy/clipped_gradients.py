"""Clipped gradients of a torch objective: in closed form where there is one, else by Opacus."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedstrategies.objectives import TorchObjective
from fedstrategies.objectives.dense_network import altered, is_cross_entropy
from fedstrategies.privacy.clipping import clipped_softmax_mean
from fedstrategies.privacy.mechanism import GaussianMechanism
from fedstrategies.privacy.per_example import check_module, clipped_module_mean

__all__ = ["ClippedGradients"]


class ClippedGradients:
    """``(1/B) sum_{j in S} clip_C(grad loss_j(x))`` for the examples of one client.

    Softmax regression (one linear layer with the plain cross-entropy, everything trained) takes
    `clipped_softmax_mean`, every other module `clipped_module_mean`.

    Parameters
    ----------
    objective : TorchObjective
        f_i.
    mechanism : GaussianMechanism
        C and B.
    coordinates : Tensor or None
        bool, shape (d,): what is released; None: all.

    Raises
    ------
    PrivacyError
        If the module has no per-example gradients, or Opacus is needed and not installed.
    """

    def __init__(
        self, objective: TorchObjective, mechanism: GaussianMechanism, coordinates: Tensor | None
    ) -> None:
        self.objective, self.coordinates = objective, coordinates
        self._max_norm = mechanism.max_grad_norm
        self._divisor = mechanism.batch_size(objective.num_examples)
        self._softmax = coordinates is None and _is_softmax(objective)
        if not self._softmax:
            check_module(objective.module)

    def mean(self, x: Tensor, chosen: Tensor, *, key: Tensor | None = None) -> Tensor:
        """The clipped mean over a sample; it must not leave the node without noise.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        chosen : Tensor
            S, bool, shape (m,).
        key : Tensor, optional
            int64, shape (1,): the stream of dropout, which need not be secret.

        Returns
        -------
        Tensor
            Shape (d,), without the regulariser.
        """
        rows = chosen.nonzero()[:, 0]
        if self._softmax:
            return self._softmax_mean(x, rows)
        return clipped_module_mean(
            self.objective,
            x,
            rows,
            max_norm=self._max_norm,
            divisor=self._divisor,
            coordinates=self.coordinates,
            key=key,
        )

    def _softmax_mean(self, x: Tensor, rows: Tensor) -> Tensor:
        objective = self.objective
        features, targets = objective.examples.take(rows, objective.device)
        arrays = objective.layout.unflatten(x.to(objective.device))
        weight, bias = clipped_softmax_mean(
            features,
            targets,
            weight=arrays["weight"],
            bias=arrays.get("bias"),
            max_norm=self._max_norm,
            divisor=self._divisor,
        )
        parts = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return objective.layout.flatten(parts).to(x.device)


def _is_softmax(objective: TorchObjective) -> bool:
    module, loss = objective.module, objective.loss
    if type(module) is not nn.Linear or altered([module]) or not is_cross_entropy(loss):
        return False
    if set(objective.layout.names) != {name for name, _ in module.named_parameters()}:
        return False
    features, targets = objective.examples.take(torch.tensor([0]), torch.device("cpu"))
    return features.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()
