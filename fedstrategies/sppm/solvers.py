"""Inner solvers A(K): the prox problem of a cohort, one exchange with the cohort at a time.

A solver never sees f_C. It names a point, the cohort answers (with gradients there, or with
models that it trained from there), and the answer moves the solver's state. The state lives for
one cohort; it is passed in and returned, never kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from fedstrategies.server_optimizer import Adam
from fedstrategies.sppm.subproblem import ProxProblem

__all__ = ["AdamSolver", "InnerSolver", "InnerState", "LocalGDSolver", "ProxGD"]

Answers: TypeAlias = Literal["gradients", "models"]


@dataclass(frozen=True, kw_only=True, eq=False)
class InnerState:
    """Where an inner solve stands.

    Attributes
    ----------
    point : Tensor
        Where the next exchange takes place, shape (d,).
    solution : Tensor
        The best that is known so far: what the solve returns if it ends now, shape (d,).
    residual : float
        Norm of grad phi (of the prox-gradient mapping, with R) at the last iterate that was
        accepted; inf before the first exchange.
    iterate : Tensor or None
        What to return if that residual is small enough, shape (d,); None: ``solution``. A second
        order method's solution is its next trial, which nobody has looked at.
    """

    point: Tensor
    solution: Tensor
    residual: float = inf
    iterate: Tensor | None = None

    @property
    def accepted(self) -> Tensor:
        """The point for which ``residual`` vouches."""
        return self.solution if self.iterate is None else self.iterate


class InnerSolver(Protocol):
    """A method for `ProxProblem`, driven from outside."""

    @property
    def states(self) -> tuple[type, ...]:
        """The dataclasses of which its states are made, for checkpoints."""

    @property
    def answers(self) -> Answers:
        """What it asks the cohort for.

        ``sum_i grad f_i(point)/(n p_i)``, or the mean of models after local steps from the
        point, with weights ``1/(n p_i W)``.
        """

    @property
    def spec(self) -> str:
        """Its settings as `parse_solver` reads them."""

    def check(self, problem: ProxProblem) -> None:
        """Raise ValueError if it cannot solve such a problem."""

    def start(self, problem: ProxProblem, x: Tensor) -> InnerState:
        """The state before the first exchange, at x_t (d,)."""

    def advance(self, problem: ProxProblem, state: InnerState, answer: Tensor) -> InnerState:
        """The state after the cohort's ``answer`` (d,) to ``state.point``."""


@dataclass(frozen=True, kw_only=True)
class ProxGD:
    """(Proximal) gradient descent: ``z <- prox_{eta R}(z - eta grad phi(z))``.

    Attributes
    ----------
    stepsize : float or None
        eta; None: ``1/(L_C + c)``.

    Raises
    ------
    ValueError
        If ``stepsize`` is not positive and finite.
    """

    stepsize: float | None = None
    answers: ClassVar[Answers] = "gradients"
    states: ClassVar[tuple[type, ...]] = (InnerState,)

    def __post_init__(self) -> None:
        positive("gd", "stepsize", self.stepsize)

    @property
    def spec(self) -> str:
        """``gd[:stepsize=...]``."""
        return _spec("gd", stepsize=self.stepsize)

    def check(self, problem: ProxProblem) -> None:
        """A step size is needed, R may be anything."""
        _stepsize("gd", self.stepsize, problem)

    def start(self, problem: ProxProblem, x: Tensor) -> InnerState:
        """At x_t."""
        return InnerState(point=x, solution=x)

    def advance(self, problem: ProxProblem, state: InnerState, answer: Tensor) -> InnerState:
        """One step."""
        step = _stepsize("gd", self.stepsize, problem)
        z = state.point
        moved = problem.prox.prox(z - step * problem.gradient(z, answer), step)
        residual = float(torch.linalg.vector_norm(z - moved)) / step
        return InnerState(point=moved, solution=moved, residual=residual)


@dataclass(frozen=True, kw_only=True, eq=False)
class _AdamState(InnerState):
    moments: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class AdamSolver:
    """Adam on phi, for networks; its moments start anew with every cohort.

    Attributes
    ----------
    lr : float
        Step size.
    eps : float
        Added to the root of the second moment.

    Raises
    ------
    ValueError
        If ``lr`` or ``eps`` is not positive and finite.
    """

    lr: float
    eps: float = 1e-8
    answers: ClassVar[Answers] = "gradients"
    states: ClassVar[tuple[type, ...]] = (_AdamState,)

    def __post_init__(self) -> None:
        positive("adam", "lr", self.lr)
        positive("adam", "eps", self.eps)

    @property
    def spec(self) -> str:
        """``adam:lr=...,eps=...``."""
        return _spec("adam", lr=self.lr, eps=self.eps)

    def check(self, problem: ProxProblem) -> None:
        """R must be smooth."""
        refuse_kinks("adam", problem)

    def start(self, problem: ProxProblem, x: Tensor) -> InnerState:
        """At x_t, both moments zero."""
        return _AdamState(point=x, solution=x, moments=self._method.init(x))

    def advance(self, problem: ProxProblem, state: InnerState, answer: Tensor) -> InnerState:
        """One step."""
        assert isinstance(state, _AdamState)
        gradient = problem.gradient(state.point, answer)
        moved, moments = self._method.step(state.point, gradient, state.moments)
        residual = float(torch.linalg.vector_norm(gradient))
        return _AdamState(point=moved, solution=moved, residual=residual, moments=moments)

    @property
    def _method(self) -> Adam:
        return Adam(lr=self.lr, beta1=0.9, beta2=0.999, eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class LocalGDSolver:
    """Clients take H local gradient steps on their own prox; the models are averaged.

    In one exchange client i takes H steps from z on
    ``f_i(y) + (c/(2W)) ||y - a||^2``, and ``z <- sum_i (w_i/W) y_i`` with w_i = 1/(n p_i) and
    W = sum w_i. With H = 1 this is gradient descent on phi; with H > 1 it goes further with each
    exchange, but to a point that is not the prox (clients drift), unless the cohort is a single
    client. The anchor a travels with every message but the first, as clients keep nothing.

    Attributes
    ----------
    steps : int
        H.
    stepsize : float or None
        eta of the local steps; None: ``1/(max_i L_i + c/W)`` over the cohort.

    Raises
    ------
    ValueError
        If ``steps`` is below 1, or ``stepsize`` is not positive and finite.
    """

    steps: int = 5
    stepsize: float | None = None
    answers: ClassVar[Answers] = "models"
    states: ClassVar[tuple[type, ...]] = (InnerState,)

    def __post_init__(self) -> None:
        positive("local-gd", "stepsize", self.stepsize)
        if self.steps < 1:
            raise ValueError(f"local-gd: steps = {self.steps}, at least 1 is needed")

    @property
    def spec(self) -> str:
        """``local-gd:steps=...[,stepsize=...]``."""
        return _spec("local-gd", steps=self.steps, stepsize=self.stepsize)

    def check(self, problem: ProxProblem) -> None:
        """R must be smooth."""
        refuse_kinks("local-gd", problem)

    def start(self, problem: ProxProblem, x: Tensor) -> InnerState:
        """At x_t."""
        return InnerState(point=x, solution=x)

    def advance(self, problem: ProxProblem, state: InnerState, answer: Tensor) -> InnerState:
        """The mean of the local models is the next point."""
        moved = float(torch.linalg.vector_norm(answer - state.point))
        return InnerState(point=answer, solution=answer, residual=moved / self.steps)


def positive(solver: str, name: str, value: float | None) -> None:
    """Refuse a setting that is given and not positive and finite."""
    if value is not None and not (isfinite(value) and value > 0):
        raise ValueError(f"{solver}: {name} = {value} is not positive and finite")


def refuse_kinks(solver: str, problem: ProxProblem) -> None:
    """Refuse R with a kink or a boundary."""
    if not problem.smooth:
        raise ValueError(
            f"solver {solver} follows gradients, and {problem.prox.spec} has none everywhere; "
            "use gd, which takes proximal steps"
        )


def _stepsize(solver: str, given: float | None, problem: ProxProblem) -> float:
    step = problem.stepsize if given is None else given
    if step is None:
        raise ValueError(
            f"solver {solver} needs L_i for its step size; give smoothness=Smoothness(...) with "
            f"L_i, or {solver}:stepsize=..."
        )
    return step


def _spec(name: str, **settings: float | None) -> str:
    given = ",".join(f"{key}={value!r}" for key, value in settings.items() if value is not None)
    return f"{name}:{given}" if given else name
