"""What is known of softmax regression: its smoothness constants and its minimiser."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from fedstrategies.objectives.classifiers import linear_classifier
from fedstrategies.objectives.prox import Prox
from fedstrategies.objectives.smoothness import Smoothness
from fedstrategies.objectives.solve import Solution, minimise
from fedstrategies.objectives.torch_objective import TorchObjective

__all__ = ["minimise_softmax", "softmax_smoothness"]


def softmax_smoothness(features: Sequence[Tensor], *, l2: float = 0.0) -> Smoothness:
    """The constants of softmax regression with a bias, exactly.

    f_i is the mean over the m_i rows a of ``log sum_k exp(z_k) - z_y`` with ``z = W a + b``,
    plus ``(l2/2) (||W||^2 + ||b||^2)``. In z its Hessian is ``H(p) = diag(p) - p p^T`` with
    ``p = softmax(z)``, and for every v

        v^T H(p) v = Var_p(v) <= (max v - min v)^2 / 4 <= ||v||^2 / 2,

    so that H(p) <= I/2. With the rows extended by a one for the bias, ``A_i = [a 1]``, the
    Hessian of f_i is the mean of the Kronecker products of H(p) and those rows' squares, hence

        L_i = lambda_max(A_i^T A_i) / (2 m_i) + l2
        L   = lambda_max((1/n) sum_i A_i^T A_i / (2 m_i)) + l2
        mu_i = mu = l2.

    None can be smaller: at W = 0 with two large equal biases p tends to (1/2, 1/2, 0, ...) in
    every row at once (for K = 2 it is there at the origin), and with it the bounds are met.
    mu is exact too: adding one vector to all rows of [W b] changes no loss.

    Parameters
    ----------
    features : sequence of Tensor
        The rows of each client, without the ones: shape (m_i, d).
    l2 : float
        lambda >= 0; the bias is regularised like the rest.

    Raises
    ------
    ValueError
        If there is no client.

    References
    ----------
    D. Böhning, "Multinomial logistic regression algorithm" (1992), for the bound on H(p).
    """
    if not features:
        raise ValueError("constants of no client at all were asked for")
    scaled = [_with_ones(rows) / sqrt(2.0 * len(rows)) for rows in features]
    local = [_largest_eigenvalue([rows]) + l2 for rows in scaled]
    clients = len(local)
    return Smoothness(
        L=_largest_eigenvalue(scaled) / clients + l2,
        L_tilde=sqrt(sum(constant * constant for constant in local) / clients),
        L_max=max(local),
        mu=l2,
        L_i=tuple(local),
        mu_i=(l2,) * clients,
    )


def minimise_softmax(
    *,
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    classes: int,
    l2: float,
    smoothness: float,
    prox: Prox | None = None,
) -> Solution:
    """Minimise ``sum_j w_j loss_j(x) + (l2/2) ||x||^2 + R(x)`` for softmax regression.

    The mean of the f_i is such a sum, with w_j the sum of 1/(n m_i) over the clients that hold
    row j; one evaluation of it costs what one client's does. Computed in float64.

    Parameters
    ----------
    features, labels, weights : Tensor
        Rows (N, d), classes 0..K-1 (N,) int64, and w (N,), at least 0.
    classes : int
        K.
    l2 : float
        lambda; without strong convexity, from here or from R, this may take very long.
    smoothness : float
        L of the smooth part.
    prox : Prox, optional
        R; None: zero.

    Raises
    ------
    SolveError
        As `minimise`.
    """
    held = weights > 0
    shares = weights[held].to(torch.float64)

    def weighted(scores: Tensor, targets: Tensor) -> Tensor:
        return shares @ nn.functional.cross_entropy(scores, targets, reduction="none")

    pooled = TorchObjective(
        module=linear_classifier(features.shape[1], classes, dtype=torch.float64),
        loss=weighted,
        data=(features[held].to(torch.float64), labels[held]),
        l2=l2,
    )
    return minimise(pooled.as_batch, prox, smoothness=smoothness)


def _with_ones(rows: Tensor) -> Tensor:
    return nn.functional.pad(rows.to("cpu", torch.float64), (0, 1), value=1.0)


def _largest_eigenvalue(parts: Sequence[Tensor]) -> float:
    """lambda_max of the sum of A^T A, by the smaller of the two Gram matrices."""
    width = parts[0].shape[1]
    if sum(len(rows) for rows in parts) < width:
        stacked = torch.cat(list(parts))
        gram = stacked @ stacked.T
    else:
        gram = parts[0].new_zeros((width, width))
        for rows in parts:
            gram += rows.T @ rows
    return float(torch.linalg.eigvalsh(gram)[-1])
