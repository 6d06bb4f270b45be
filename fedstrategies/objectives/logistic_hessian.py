"""The Hessian of mean logistic regression."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression

__all__ = ["mean_logistic_hessian"]


def mean_logistic_hessian(
    batched: BatchedLogisticRegression, x: Tensor, weights: Tensor | None = None
) -> Tensor:
    """``(1/n) sum_i w_i H_i(x_i)``, H_i the Hessian of f_i.

    ``H_i(x) = (1/m_i) A_i^T diag(sigma(z_i) (1 - sigma(z_i))) A_i + l2_i I`` with ``z_i = A_i x``.

    Parameters
    ----------
    batched : BatchedLogisticRegression
        n clients.
    x : Tensor
        Shape (d,), one point for all, or (n, d), one for each.
    weights : Tensor, optional
        w_i, shape (n,); None: 1.

    Returns
    -------
    Tensor
        Shape (d, d), symmetric.
    """
    dimension = batched.dimension
    hessian = torch.zeros((dimension, dimension), dtype=x.dtype, device=x.device)
    shares = torch.ones(len(batched), dtype=x.dtype, device=x.device)
    shares = shares if weights is None else weights.to(shares)
    points = x.expand(len(batched), -1)
    for places, block in batched.shards.blocks():
        slopes = (block.rows @ points[places].unsqueeze(2)).squeeze(2).sigmoid()
        # Rows of padding are zero and add nothing.
        curvature = shares[places].unsqueeze(1) * slopes * (1.0 - slopes) / block.sizes
        rows = block.rows.reshape(-1, dimension)
        hessian += rows.T @ (rows * curvature.reshape(-1, 1))
    hessian /= len(batched)
    hessian.diagonal().add_((shares * batched.l2).mean())
    return hessian
