"""Smoothness and strong convexity constants of a sum of f_i."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, sqrt

import torch
from torch import Tensor

from fedstrategies.objectives.base import BatchedObjective
from fedstrategies.objectives.batched_logistic import BatchedLogisticRegression
from fedstrategies.objectives.last_point import without_memory

__all__ = ["Smoothness", "logistic_smoothness"]


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """What the step-size theory needs to know of ``f = (1/n) sum_i f_i``.

    Attributes
    ----------
    L : float
        Lipschitz constant of grad f.
    L_tilde : float
        ``sqrt((1/n) sum_i L_i^2)``, the quadratic mean of the L_i.
    L_max : float
        ``max_i L_i``.
    mu : float
        Strong convexity of f; 0 where only convexity is known.
    L_i, mu_i : tuple of float, optional
        The constants of each f_i; None where they were not computed (an override by hand).

    Raises
    ------
    ValueError
        If a constant is not a finite number, L or L_tilde is not positive, or mu is negative.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    >>> from fedstrategies import Smoothness
    >>> known = Smoothness(L=1.0, L_tilde=2.5, L_max=4.0, mu=0.1)
    >>> known.L_tilde / known.L
    2.5
    """

    L: float
    L_tilde: float
    L_max: float
    mu: float = 0.0
    L_i: tuple[float, ...] | None = None
    mu_i: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("L", "L_tilde", "L_max"):
            constant = getattr(self, name)
            if not 0.0 < constant < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {constant}")
        if not 0.0 <= self.mu < float("inf"):
            raise ValueError(f"mu must be a finite number >= 0, got {self.mu}")

    @property
    def condition_number(self) -> float:
        """``kappa = L / mu``; infinite for mu = 0."""
        return self.L / self.mu if self.mu > 0.0 else float("inf")


def logistic_smoothness(objective: BatchedObjective) -> Smoothness:
    """The constants of logistic regression, exactly.

    As the second derivative of the log-loss lies in (0, 1/4] and reaches 1/4 at x = 0,

        L_i = lambda_max(A_i^T A_i) / (4 m_i) + l2_i
        L   = lambda_max((1/n) sum_i A_i^T A_i / (4 m_i)) + (1/n) sum_i l2_i
        mu_i = l2_i,   mu = (1/n) sum_i l2_i

    The eigenvalues are taken of the smaller of the two Gram matrices, A^T A or A A^T, in
    float64. (mu is a bound: the curvature of the log-loss has no positive lower bound.)

    Parameters
    ----------
    objective : BatchedObjective
        Batched logistic regression, or a `LastPoint` around it.

    Raises
    ------
    ValueError
        If the objective is not logistic regression.

    Examples
    --------
    After the example of `LogisticRegression`. The longer of the first client's two orthogonal rows
    has norm 2, so its L_i is 2^2/(4 * 2) + 0.1.

    >>> from fedstrategies import logistic_smoothness
    >>> known = logistic_smoothness(LogisticRegression.stack(f))
    >>> [round(value, 6) for value in (known.L, known.L_tilde, *known.L_i, known.mu)]
    [0.6625, 0.964527, 0.6, 1.225, 0.1]
    """
    batched = without_memory(objective)
    if not isinstance(batched, BatchedLogisticRegression):
        raise ValueError(
            f"constants are known for logistic regression, not for {type(batched).__name__}; "
            "state L and L_tilde"
        )
    l2 = batched.l2.to("cpu", torch.float64)
    local = torch.zeros(len(batched), dtype=torch.float64)
    for places, block in batched.shards.blocks():
        rows = block.rows.to(torch.float64)
        local[places] = (_largest_eigenvalues(rows) / (4.0 * block.sizes[:, 0])).cpu()
    local += l2
    mean_l2 = fsum(l2.tolist()) / len(l2)
    return Smoothness(
        L=_mean_curvature(batched) + mean_l2,
        L_tilde=sqrt(float((local * local).mean())),
        L_max=float(local.max()),
        mu=mean_l2,
        L_i=tuple(local.tolist()),
        mu_i=tuple(l2.tolist()),
    )


def _largest_eigenvalues(rows: Tensor) -> Tensor:
    """lambda_max(A^T A) for each A of shape (m, d): rows (C, m, d) -> (C,)."""
    height, width = rows.shape[1:]
    if height == 1:
        return (rows * rows).sum(dim=(1, 2))
    transposed = rows.transpose(1, 2)
    gram = rows @ transposed if height < width else transposed @ rows
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues[:, -1]


def _mean_curvature(batched: BatchedLogisticRegression) -> float:
    """lambda_max((1/n) sum_i A_i^T A_i / (4 m_i))."""
    dimension, total = batched.dimension, int(batched.num_examples.sum())
    scaled = (
        (
            block.rows.to(torch.float64) / (4.0 * len(batched) * block.sizes.unsqueeze(2)).sqrt()
        ).reshape(-1, dimension)
        for _, block in batched.shards.blocks()
    )
    if total < dimension:
        # Padding adds rows of zeros, which leave the largest eigenvalue alone.
        return float(_largest_eigenvalues(torch.cat(list(scaled)).unsqueeze(0)))
    gram = torch.zeros((dimension, dimension), dtype=torch.float64, device=batched.shards.device)
    for rows in scaled:
        gram += rows.T @ rows
    return float(torch.linalg.eigvalsh(gram)[-1])
