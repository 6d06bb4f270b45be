"""The Hessian of mean logistic regression."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression

__all__ = ["mean_logistic_hessian"]


def mean_logistic_hessian(batched: BatchedLogisticRegression, x: Tensor) -> Tensor:
    """Hessian of ``(1/n) sum_i f_i`` at x.

    ``(1/n) sum_i ((1/m_i) A_i^T diag(sigma(z_i) (1 - sigma(z_i))) A_i + l2_i I)`` with
    ``z_i = A_i x``.

    Parameters
    ----------
    batched : BatchedLogisticRegression
        n clients.
    x : Tensor
        Shape (d,).

    Returns
    -------
    Tensor
        Shape (d, d), symmetric.
    """
    dimension = batched.dimension
    hessian = torch.zeros((dimension, dimension), dtype=x.dtype, device=x.device)
    for _, block in batched.shards.blocks():
        rows = block.rows.reshape(-1, dimension)
        slopes = (rows @ x).sigmoid()
        # Rows of padding are zero and add nothing.
        curvature = slopes * (1.0 - slopes) / block.sizes.expand(block.labels.shape).reshape(-1)
        hessian += rows.T @ (rows * curvature.unsqueeze(1))
    hessian /= len(batched)
    hessian.diagonal().add_(batched.l2.mean())
    return hessian
