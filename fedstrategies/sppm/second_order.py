"""Inner solvers that learn curvature: L-BFGS, and Newton's method by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from fedstrategies.sppm.line_search import LineSearch
from fedstrategies.sppm.solvers import Answers, InnerState, refuse_kinks
from fedstrategies.sppm.subproblem import ProxProblem

__all__ = ["LBFGS", "ConjugateGradient"]

_FORCING = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class _LBFGSState(InnerState):
    """``search`` is None before the first answer; pairs are (s, y), oldest first."""

    search: LineSearch | None = None
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """L-BFGS with a line search on slopes; a trial that is rejected costs an exchange like any.

    Attributes
    ----------
    memory : int
        Pairs of differences kept.

    Raises
    ------
    ValueError
        If ``memory`` is below 1.

    References
    ----------
    Liu, Nocedal, "On the limited memory BFGS method for large scale optimization" (1989).
    """

    memory: int = 10
    answers: ClassVar[Answers] = "gradients"
    states: ClassVar[tuple[type, ...]] = (_LBFGSState, LineSearch)

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"lbfgs: memory = {self.memory}, at least 1 is needed")

    @property
    def spec(self) -> str:
        """``lbfgs:memory=...``."""
        return f"lbfgs:memory={self.memory}"

    def check(self, problem: ProxProblem) -> None:
        """R must be smooth."""
        refuse_kinks("lbfgs", problem)

    def start(self, problem: ProxProblem, x: Tensor) -> InnerState:
        """At x_t, nothing learnt."""
        return _LBFGSState(point=x, solution=x)

    def advance(self, problem: ProxProblem, state: InnerState, answer: Tensor) -> InnerState:
        """Accept the trial and turn to a new direction, or try another step along the old one."""
        assert isinstance(state, _LBFGSState)
        z, pairs = state.point, state.pairs
        gradient = problem.gradient(z, answer)
        if state.search is not None:
            again = state.search.advance(gradient)
            if again is not None:
                return replace(state, point=again.point, solution=again.point, search=again)
            difference = z - state.search.base, gradient - state.search.gradient
            # Positive wherever phi is convex, but for rounding close to the solution.
            if float(difference[0] @ difference[1]) > 0.0:
                pairs = (*pairs, difference)[-self.memory :]
        residual = float(torch.linalg.vector_norm(gradient))
        if residual == 0.0:
            return _LBFGSState(point=z, solution=z, residual=0.0)
        direction = -_inverse_hessian_times(gradient, pairs, first_step(problem))
        blind = problem.smoothness is None and not pairs
        search = LineSearch(base=z, gradient=gradient, direction=direction, blind=blind)
        return _LBFGSState(
            point=search.point,
            solution=_guess(problem, state.residual, z, search.point),
            residual=residual,
            iterate=z,
            search=search,
            pairs=pairs,
        )


def _inverse_hessian_times(
    gradient: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...], first: float
) -> Tensor:
    """The two-loop recursion; without pairs a multiple of the gradient."""
    if not pairs:
        return first * gradient
    result, coefficients = gradient.clone(), []
    for s, y in reversed(pairs):
        coefficient = (s @ result) / (s @ y)
        coefficients.append(coefficient)
        result = result - coefficient * y
    s, y = pairs[-1]
    result = result * ((s @ y) / (y @ y))
    for (s, y), coefficient in zip(pairs, reversed(coefficients), strict=True):
        result = result + (coefficient - (y @ result) / (s @ y)) * s
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class _CGState(InnerState):
    """The Newton system at ``base``: step s, residual r of the system, conjugate direction p.

    ``search`` tells a point that tests a Newton step (or the very first) from one that measures
    curvature along p; ``reach`` is how far along p that one lies. ``iterations`` counts those of
    the system.
    """

    base: Tensor
    gradient: Tensor | None = None
    step: Tensor | None = None
    system_residual: Tensor | None = None
    direction: Tensor | None = None
    reach: float = 0.0
    iterations: int = 0
    search: LineSearch | None = None


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Newton's method with the system solved by conjugate gradients, from gradients alone.

    ``grad phi(z + t p) - grad phi(z)`` is t times the Hessian times p, so each iteration of
    conjugate gradients costs one exchange; t is the step that the iteration before took, which
    keeps the difference above rounding and the quadratic model where it is used. On quadratic
    f_i this is the conjugate gradient method itself. When the system is solved to a tenth, or after
    d iterations, the Newton step is tested by one exchange, which begins the next system.
    """

    answers: ClassVar[Answers] = "gradients"
    states: ClassVar[tuple[type, ...]] = (_CGState, LineSearch)

    @property
    def spec(self) -> str:
        """``cg``."""
        return "cg"

    def check(self, problem: ProxProblem) -> None:
        """R must be smooth."""
        refuse_kinks("cg", problem)

    def start(self, problem: ProxProblem, x: Tensor) -> InnerState:
        """At x_t."""
        return _CGState(point=x, solution=x, base=x, reach=first_step(problem))

    def advance(self, problem: ProxProblem, state: InnerState, answer: Tensor) -> InnerState:
        """One iteration of conjugate gradients, or the test of a Newton step."""
        assert isinstance(state, _CGState)
        gradient = problem.gradient(state.point, answer)
        if state.gradient is None:
            return self._new_system(problem, inf, state.point, gradient, state.reach)
        if state.search is None:
            return self._iterate(state, gradient)
        again = state.search.advance(gradient)
        if again is None:
            return self._new_system(problem, state.residual, state.point, gradient, state.reach)
        return replace(state, point=again.point, solution=again.point, search=again)

    def _new_system(
        self, problem: ProxProblem, before: float, base: Tensor, gradient: Tensor, reach: float
    ) -> InnerState:
        residual = float(torch.linalg.vector_norm(gradient))
        if residual == 0.0:
            return _CGState(point=base, solution=base, residual=0.0, base=base)
        # Until curvature is known the best guess is a gradient step.
        guess = base - reach * gradient
        return _CGState(
            point=guess,
            solution=_guess(problem, before, base, guess),
            residual=residual,
            iterate=base,
            base=base,
            gradient=gradient,
            step=torch.zeros_like(gradient),
            system_residual=gradient,
            direction=-gradient,
            reach=reach,
        )

    def _iterate(self, state: _CGState, gradient: Tensor) -> InnerState:
        assert state.gradient is not None
        assert state.step is not None
        assert state.system_residual is not None
        assert state.direction is not None
        r, p = state.system_residual, state.direction
        curved = (gradient - state.gradient) / state.reach
        bending = float(p @ curved)
        if bending <= 0.0:
            # phi is strongly convex: this is rounding, close to the solution.
            return self._test(state, state.step, state.reach)
        length = float(r @ r) / bending
        step, following = state.step + length * p, r + length * curved
        solution = state.base + step
        reduction = torch.linalg.vector_norm(following) / torch.linalg.vector_norm(state.gradient)
        iterations = state.iterations + 1
        if float(reduction) <= _FORCING or iterations == len(step):
            return self._test(state, step, length)
        direction = float((following @ following) / (r @ r)) * p - following
        return replace(
            state,
            point=state.base + length * direction,
            solution=solution,
            step=step,
            system_residual=following,
            direction=direction,
            reach=length,
            iterations=iterations,
        )

    def _test(self, state: _CGState, step: Tensor, reach: float) -> InnerState:
        """Ask at the end of the Newton step, or of a gradient step where that does not descend.

        Far from the solution the differences of gradients are those of no one matrix, and what
        conjugate gradients make of them may point anywhere.
        """
        assert state.gradient is not None
        descends = float(step @ state.gradient) < 0.0
        direction = step if descends else -reach * state.gradient
        search = LineSearch(base=state.base, gradient=state.gradient, direction=direction)
        point = search.point
        return replace(
            state, point=point, solution=point, step=direction, reach=reach, search=search
        )


def _guess(problem: ProxProblem, before: float, tested: Tensor, trial: Tensor) -> Tensor:
    """What a solve returns that ends with a trial ahead: the trial, or the point that was tested.

    The very first trial without L_C is a shot in the dark.
    """
    return tested if problem.smoothness is None and before == inf else trial


def first_step(problem: ProxProblem) -> float:
    """Where to look first: ``1/(L_C + c)``, or ``1/c`` where L_C is not known."""
    step = problem.stepsize
    return 1 / problem.curvature if step is None else step
