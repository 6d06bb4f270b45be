"""Looking at everything that can be wrong with the input, before anything is written.

The data set is read, the rows are dealt, the theory's constants are computed and the strategy is
prepared once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from torch import Tensor

from fedstrategies.data import DataError
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.continuation import check_same_run
from fedstrategies.experiment.logs import check_log
from fedstrategies.experiment.method import Method
from fedstrategies.experiment.methods import method_of
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import Problem, load_problem
from fedstrategies.experiment.results import check_directory, choose_directory
from fedstrategies.flower import BaseStrategy
from fedstrategies.objectives import Solution, SolveError
from fedstrategies.threads import single_threaded

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An experiment whose input has been looked at and found right.

    Attributes
    ----------
    config : ExperimentConfig
        With ``out`` resolved.
    problem : Problem
        Data, objectives, constants.
    method : Method
        The algorithm on this problem.
    strategy : BaseStrategy
        Fresh, to be started once.
    theory : dict
        What the analysis chose.
    stepsize : float
        gamma.
    fstar : float or None
        f*, solved for or given.
    minimiser : Tensor or None
        x*, where it was solved for: shape (d,).
    """

    config: ExperimentConfig
    problem: Problem
    method: Method
    strategy: BaseStrategy
    theory: dict[str, float]
    stepsize: float
    fstar: float | None
    minimiser: Tensor | None = None


def prepare(config: ExperimentConfig) -> Prepared:
    """Read the data, compute all constants and check every setting; writes nothing.

    Parameters
    ----------
    config : ExperimentConfig
        The experiment.

    Raises
    ------
    ConfigError, DataError
        For wrong input: one line.
    """
    check_log(config)
    directory = choose_directory(config)
    check_directory(directory, overwrite=config.overwrite or config.resume)
    if config.resume:
        check_same_run(config, directory)
    with single_threaded():
        problem = load_problem(config.problem)
        _check_start_point(problem)
        method = method_of(config, problem)
        try:
            trial = method.strategy()
            trial.prepare(problem.start_point)
            privacy = method.privacy  # finds the noise, or says why there is none
            if privacy is not None:
                # Says now what is wrong with a model that has no private gradients.
                privacy.private(problem.objective(0), secret=privacy.new_secret(0))
        except (ConfigError, DataError):
            raise
        except ValueError as error:
            raise ConfigError(f"{config.algorithm}: {error}") from None
        solution = _solve(method) if config.fstar == "solve" else None
        fstar = config.fstar if solution is None else solution.value
    return Prepared(
        config=replace(config, out=str(directory)),
        problem=problem,
        method=method,
        strategy=method.strategy(),
        theory=trial.constants,
        stepsize=trial.gamma,
        fstar=None if fstar is None else float(fstar),
        minimiser=None if solution is None else solution.x,
    )


def _check_start_point(problem: Problem) -> None:
    # A start too far out overflows; the message below says so, not a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        loss = float(problem.objectives.values(problem.start_point).mean())
    if not isfinite(loss):
        raise ConfigError(
            f"x0: f(x0) is {loss} at {problem.config.x0} in {problem.config.dtype}; "
            "start nearer the origin"
        )


def _solve(method: Method) -> Solution:
    try:
        return method.solution()
    except SolveError as error:
        raise ConfigError(f"fstar: {error}") from None
