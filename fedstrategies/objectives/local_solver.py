"""Solvers of one client's own problem, ``x_i* = argmin f_i``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedstrategies.objectives.base import Objective
from fedstrategies.objectives.solve import minimise
from fedstrategies.random import derived_keys, random_bits

__all__ = ["ExactLocalSolver", "LocalOptimum", "LocalSGD", "LocalSolver"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalOptimum:
    """What a client found alone.

    Attributes
    ----------
    x : Tensor
        x_i*, shape (d,).
    residual : float
        ``||grad f_i(x_i*)||``, zero at an exact minimiser.
    passes : float
        Cost in passes over the client's examples.
    """

    x: Tensor
    residual: float
    passes: float


class LocalSolver(Protocol):
    """A way to find x_i*; the result is a function of f_i, start, key and `spec`."""

    @property
    def spec(self) -> str:
        """Its settings as text: a stored x_i* is used again only under the same."""

    def solve(self, objective: Objective, *, start: Tensor, key: Tensor) -> LocalOptimum:
        """x_i* from ``start`` (d,) with the random stream ``key`` (int64, shape (1,))."""


@dataclass(frozen=True, kw_only=True)
class ExactLocalSolver:
    """The minimiser of a convex f_i to a tolerance; see `minimise`.

    Attributes
    ----------
    tolerance : float
        Largest norm of the gradient.
    smoothness : float or None
        L_i; None: computed, which only logistic regression allows.

    References
    ----------
    Gasanov, Khaled, Horvath, Richtarik, "FLIX: A Simple and Communication-Efficient Alternative
    to Local Methods in Federated Learning" (2022).

    Examples
    --------
    After the example of `LogisticRegression`, whose first client looks for x_i*:

    >>> from fedstrategies import ExactLocalSolver
    >>> x0, key = torch.zeros(4, dtype=torch.float64), torch.tensor([0])
    >>> found = ExactLocalSolver().solve(f[0], start=x0, key=key)
    >>> found.x
    tensor([ 1.0640, -1.1775,  0.0000,  0.0000], dtype=torch.float64)
    >>> found.residual <= 1e-12
    True
    """

    tolerance: float = 1e-12
    smoothness: float | None = None

    @property
    def spec(self) -> str:
        """``exact:tolerance=...``."""
        return f"exact:tolerance={self.tolerance:g}"

    def solve(self, objective: Objective, *, start: Tensor, key: Tensor) -> LocalOptimum:
        """x_i*; Newton's method for logistic regression.

        Raises
        ------
        SolveError, ValueError
            As `minimise`.
        """
        found = minimise(
            objective.as_batch, x0=start, tolerance=self.tolerance, smoothness=self.smoothness
        )
        return LocalOptimum(x=found.x, residual=found.residual, passes=float(found.steps + 1))


@dataclass(frozen=True, kw_only=True)
class LocalSGD:
    """Shuffled passes of mini-batch gradient descent, for f_i without a solver (networks).

    Attributes
    ----------
    epochs : int
        Passes over the client's examples.
    stepsize : float
        Of every step.
    batch_size : int or None
        Examples in a step; None: all.

    Raises
    ------
    ValueError
        If ``epochs`` or ``batch_size`` is below 1, or ``stepsize`` is not positive and finite.

    References
    ----------
    Gasanov, Khaled, Horvath, Richtarik, "FLIX: A Simple and Communication-Efficient Alternative
    to Local Methods in Federated Learning" (2022).

    Examples
    --------
    After the example of `LogisticRegression`:

    >>> from fedstrategies import LocalSGD
    >>> x0, key = torch.zeros(4, dtype=torch.float64), torch.tensor([0])
    >>> found = LocalSGD(epochs=20, stepsize=0.5, batch_size=1).solve(f[0], start=x0, key=key)
    >>> found.passes
    21.0
    >>> found.residual < 0.1
    True
    """

    epochs: int
    stepsize: float
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, size in (("epochs", self.epochs), ("batch_size", self.batch_size or 1)):
            if size < 1:
                raise ValueError(f"{name} = {size}: at least 1 is needed")
        if not 0 < self.stepsize < float("inf"):
            raise ValueError(f"stepsize = {self.stepsize} is not positive and finite")

    @property
    def spec(self) -> str:
        """``sgd:epochs=...,stepsize=...[,batch_size=...]``."""
        batch = "" if self.batch_size is None else f",batch_size={self.batch_size}"
        return f"sgd:epochs={self.epochs},stepsize={self.stepsize:g}{batch}"

    def solve(self, objective: Objective, *, start: Tensor, key: Tensor) -> LocalOptimum:
        """x after the epochs; every example is used once in each, in an order drawn from key."""
        x, count = start.clone(), objective.num_examples
        size = min(self.batch_size or count, count)
        for epoch in range(self.epochs):
            order = random_bits(derived_keys(key, epoch), count)[0].argsort(stable=True)
            for first in range(0, count, size):
                _, gradient = objective.at_rows(x, order[first : first + size])
                x = x - self.stepsize * gradient
        residual = float(torch.linalg.vector_norm(objective.value_and_gradient(x)[1]))
        return LocalOptimum(x=x, residual=residual, passes=float(self.epochs + 1))
