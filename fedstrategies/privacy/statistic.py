"""A private client's mean of a statistic: one release, as its gradients are."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.objectives import ExampleStatistic, TorchObjective
from fedstrategies.privacy.clipping import clip_factors
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.noise import NoisePurpose, poisson_sample, standard_normals, stream_key
from fedstrategies.privacy.per_example import check_module

if TYPE_CHECKING:
    from fedstrategies.privacy.objective import PrivateObjective

__all__ = ["released_statistic"]


def released_statistic(private: PrivateObjective, x: Tensor, statistic: ExampleStatistic) -> Tensor:
    """``(1/B) (sum_{j in S} clip_C(s_j) + N(0, sigma^2 C^2 I))``, S a Poisson sample.

    With the client's own sigma and rate q, so that it is one more release of the mechanism that
    its gradients are releases of; C is the statistic's. It is charged before anything is computed.

    What is bounded is the vector of each example. As with gradients, a module that makes an
    example's activations depend on the others of its batch (a normalisation of its own, sequences
    along the first axis) is not protected by that; Opacus's validator, which is asked, knows the
    usual layers of this kind.

    Parameters
    ----------
    private : PrivateObjective
        Who pays, and whose secret the draws are from.
    x : Tensor
        Shape (d,); must be a function of what was released before.
    statistic : ExampleStatistic
        s_j, with its norm C.

    Returns
    -------
    Tensor
        float64, shape (S,).

    Raises
    ------
    BudgetSpent
        If the budget allows no further release; nothing is charged.
    PrivacyError
        If noise is to be added and C is infinite, there is no module to look into, or one whose
        examples Opacus cannot tell apart. Nothing is charged.
    """
    objective = private.objective
    if not isinstance(objective, TorchObjective):
        raise PrivacyError(
            f"{type(objective).__name__} has no layers whose activations could be looked at"
        )
    if private.mechanism.noise_multiplier > 0.0 and not isfinite(statistic.max_norm):
        raise PrivacyError(
            "noise is a multiple of the norm that each example's activations are scaled down to, "
            "which is infinite; give Calibration a finite max_norm"
        )
    check_module(objective.module)
    mechanism = replace(private.mechanism, max_grad_norm=statistic.max_norm)
    number = private.charge()
    question = mechanism.question(x, objective.num_examples)

    def stream(purpose: NoisePurpose) -> bytes:
        return stream_key(private.secret, number, purpose, question=b"statistic" + question)

    sample = poisson_sample(
        stream(NoisePurpose.SAMPLE), objective.num_examples, private.sample_rate
    )

    def clipped(rows: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        finite = torch.where(torch.isfinite(norms), rows, torch.zeros_like(rows))
        return finite * clip_factors(norms, statistic.max_norm)

    total = objective.autograd.total(x, statistic, rows=sample.nonzero()[:, 0], weigh=clipped)
    released = total / mechanism.batch_size(objective.num_examples)
    scale = mechanism.noise_scale(objective.num_examples)
    if scale:
        noise = standard_normals([stream(NoisePurpose.STATISTIC)], len(total))[0]
        released += scale * noise.to(released.device)
    return released
