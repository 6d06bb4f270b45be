"""Per-example clipping in closed form: sums of clipped gradients that are never materialised.

The gradient of one example of a linear model is an outer product of its residual and its row, so
its norm is a product of two norms and the clipped sum is one matrix product with scaled residuals:

    logistic regression   g_j = sigma(z_j) a_j,             ||g_j|| = sigma(z_j) ||a_j||
    softmax regression    g_j = r_j [a_j 1]^T,              ||g_j|| = ||r_j|| ||[a_j 1]||

with r_j = softmax(z_j) - e_{y_j}.

An example whose gradient is no finite number (the model sent was not, or overflows) counts as
zero: the bound C on what one example can change must hold whatever the server sends. (It holds
to rounding: a clipped gradient may be longer than C by a few units in the last place.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedstrategies.objectives.logistic_kernels import Block

__all__ = ["clip_factors", "clipped_logistic_means", "clipped_softmax_mean", "row_norms"]


def clip_factors(norms: Tensor, max_norm: float | Tensor) -> Tensor:
    """``min(1, C / norm)``, exactly 1 up to C, and 0 where the norm is not finite.

    Parameters
    ----------
    norms : Tensor
        At least 0, any shape.
    max_norm : float or Tensor
        C > 0, infinity for no clipping; broadcast against ``norms``.
    """
    factors: Tensor = torch.reciprocal(norms / max_norm).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(norms))


def row_norms(rows: Tensor, coordinates: Tensor | None = None) -> Tensor:
    """``||a_j||`` over all or some coordinates.

    Parameters
    ----------
    rows : Tensor
        Shape (m, d).
    coordinates : Tensor, optional
        bool, shape (d,).

    Returns
    -------
    Tensor
        Shape (m,). A row's bits do not depend on the others.
    """
    chosen = rows if coordinates is None else rows * coordinates.to(rows.dtype)
    norms: Tensor = torch.linalg.vector_norm(chosen, dim=1)
    return norms


def clipped_logistic_means(
    block: Block,
    x: Tensor,
    *,
    norms: Tensor,
    chosen: Tensor | None,
    max_norm: Tensor,
    divisor: Tensor,
) -> Tensor:
    """``(1/B) sum_{j chosen} clip_C(sigma(z_j) a_j)`` for a block of clients, z_j = <a_j, x>.

    Rows are those of `Block`, with the labels folded in. All rows take part in the products, the
    ones outside the sample with factor 0: time does not depend on the sample, and neither do
    a client's bits on its company. Without clipping and sampling, and with B = m, the result has
    the bits of the plain gradient.

    Parameters
    ----------
    block : Block
        C clients with H rows each, padding included.
    x : Tensor
        Shape (d,) or (C, d).
    norms : Tensor
        ``||a_j||``, shape (C, H).
    chosen : Tensor or None
        The sample as 0 and 1, shape (C, H); None: all rows.
    max_norm, divisor : Tensor
        Clipping norm and B of each client, shape (C, 1).

    Returns
    -------
    Tensor
        Shape (C, d), on the device of the block.
    """
    slopes, fractions = _logistic_slopes(block, x, divisor)
    weights = fractions * clip_factors(slopes * norms, max_norm)
    if chosen is not None:
        weights = weights * chosen
    weights = torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights))
    if block.rows.device.type != "cpu":
        return torch.bmm(weights.unsqueeze(1), block.rows).squeeze(1)
    # One BLAS call a client, as in the plain kernel, whose bits these have to be.
    if block.rows.shape[1] == 1:
        return block.rows[:, 0] * weights
    return torch.from_numpy(np.matmul(weights.numpy()[:, None], block.rows.numpy())[:, 0])


def clipped_softmax_mean(
    features: Tensor,
    targets: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    max_norm: float,
    divisor: float,
) -> tuple[Tensor, Tensor | None]:
    """``(1/B) sum_j clip_C((p_j - e_{y_j}) [a_j 1]^T)`` of one client's sample.

    Parameters
    ----------
    features : Tensor
        a, shape (b, d): the examples of the sample, of which there may be none.
    targets : Tensor
        y, int64, shape (b,): classes 0..K-1.
    weight, bias : Tensor
        W of shape (K, d) and b of shape (K,), or None without a bias.
    max_norm, divisor : float
        C over weight and bias together, and B.

    Returns
    -------
    tuple of Tensor
        Shapes (K, d) and (K,), the second None without a bias.
    """
    scores = features @ weight.T
    if bias is not None:
        scores = scores + bias
    residuals = scores.softmax(dim=1)
    residuals.scatter_add_(1, targets.unsqueeze(1), -torch.ones_like(residuals[:, :1]))
    lengths = (features * features).sum(dim=1)
    if bias is not None:
        lengths = lengths + 1.0
    norms = torch.linalg.vector_norm(residuals, dim=1) * lengths.sqrt()
    scaled = residuals * (clip_factors(norms, max_norm) / divisor).unsqueeze(1)
    if not bool(torch.isfinite(norms).all()):
        # 0 times infinity is not a number.
        scaled = torch.where(torch.isfinite(norms).unsqueeze(1), scaled, torch.zeros_like(scaled))
        features = torch.where(torch.isfinite(features), features, torch.zeros_like(features))
    return scaled.T @ features, None if bias is None else scaled.sum(dim=0)


def _logistic_slopes(block: Block, x: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """sigma(z) and sigma(z) / B, each (C, H); on CPU by the operations of the plain kernel."""
    if block.rows.device.type != "cpu":
        points = x.expand(len(block), -1) if x.ndim == 1 else x
        slopes = torch.bmm(block.rows, points.unsqueeze(2)).squeeze(2).sigmoid()
        return slopes, slopes / divisor
    rows, point = block.rows.numpy(), x.numpy()
    # A model that overflows gives slopes that are dropped; a warning adds nothing.
    with np.errstate(all="ignore"):
        margins = rows @ point if point.ndim == 1 else (rows @ point[:, :, None])[:, :, 0]
        decay = np.exp(-np.abs(margins))
        top = np.where(margins >= 0.0, 1.0, decay)
        bottom = 1.0 + decay
        fractions = top / (bottom * divisor.numpy())
        return torch.from_numpy(top / bottom), torch.from_numpy(fractions)
