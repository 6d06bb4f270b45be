"""Step-size constants under privacy: bounds that do not depend on the data."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from fedstrategies.objectives import Smoothness
from fedstrategies.privacy.errors import PrivacyError

__all__ = ["clip_rows", "clipped_logistic_smoothness", "clipped_softmax_smoothness"]


def clip_rows(rows: Tensor, max_norm: float) -> Tensor:
    """Rows scaled down to norm R where they are longer.

    Each row by itself, so that one record still changes one row: nothing of this is charged.

    Parameters
    ----------
    rows : Tensor
        a, shape (m, d).
    max_norm : float
        R > 0.

    Returns
    -------
    Tensor
        Shape (m, d); shorter rows keep their bits.

    Raises
    ------
    PrivacyError
        If R is not positive and finite.
    """
    _check(max_norm=max_norm)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    factors: Tensor = (max_norm / norms).clamp(max=1.0)
    return rows * factors


def clipped_logistic_smoothness(
    clients: int, *, max_row_norm: float, max_grad_norm: float = float("inf"), l2: float = 0.0
) -> Smoothness:
    """Constants of logistic regression with rows of norm at most R, gradients clipped at C.

    Along a row a of norm r the gradient is ``min(sigma(z), C/r) a``: the derivative of a convex
    function, whose curvature is ``r^2 s (1 - s)`` with s = sigma(z) up to C/r, and 0 beyond. Its
    supremum is r^2/4 where r <= 2C, else ``C (r - C)``, both increasing in r. Hence for all data

        L_i = L = L~ = (R^2/4 if R <= 2C else C (R - C)) + l2,     mu_i = mu = l2.

    Parameters
    ----------
    clients : int
        n.
    max_row_norm : float
        R: of `clip_rows`, or known without looking (one-hot rows of 22 attributes: sqrt(22)).
    max_grad_norm : float
        C; infinity without clipping.
    l2 : float
        lambda >= 0.

    Raises
    ------
    PrivacyError
        If R is not positive and finite, C not positive, or n < 1.
    """
    _check(max_row_norm=max_row_norm)
    if not max_grad_norm > 0.0:
        raise PrivacyError(f"max_grad_norm must be positive, got {max_grad_norm}")
    curvature = max_row_norm**2 / 4.0
    if max_row_norm > 2.0 * max_grad_norm:
        curvature = max_grad_norm * (max_row_norm - max_grad_norm)
    return _same_for_all(clients, curvature + l2, l2)


def clipped_softmax_smoothness(clients: int, *, max_row_norm: float, l2: float = 0.0) -> Smoothness:
    """Constants of softmax regression with a bias and rows of norm at most R.

    ``L_i = (R^2 + 1)/2 + l2`` for all data: `softmax_smoothness` with every row as long as
    allowed. Clipping a gradient projects the residual onto a ball, which lengthens no distance,
    so the same constant bounds the clipped field; convexity, and with it mu, it may lose.

    Parameters
    ----------
    clients : int
        n.
    max_row_norm : float
        R.
    l2 : float
        lambda >= 0.

    Raises
    ------
    PrivacyError
        If R is not positive and finite, or n < 1.
    """
    _check(max_row_norm=max_row_norm)
    return _same_for_all(clients, (max_row_norm**2 + 1.0) / 2.0 + l2, l2)


def _same_for_all(clients: int, constant: float, mu: float) -> Smoothness:
    if clients < 1:
        raise PrivacyError(f"constants of {clients} clients were asked for")
    return Smoothness(
        L=constant,
        L_tilde=constant,
        L_max=constant,
        mu=mu,
        L_i=(constant,) * clients,
        mu_i=(mu,) * clients,
    )


def _check(**norms: float) -> None:
    for name, norm in norms.items():
        if not (isfinite(norm) and norm > 0.0):
            raise PrivacyError(f"{name} must be positive and finite, got {norm}")
