"""SPPM-AS ("Cohort Squeeze") with its inner solvers, and the baselines LocalGD and FedProx.

Names are imported when first used, so that the mathematics can be had without Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.sppm.algorithm import CohortSolve, GradientRule, LocalProxRule
    from fedstrategies.sppm.baselines import FedProx, LocalGD
    from fedstrategies.sppm.client import SPPMClient
    from fedstrategies.sppm.second_order import LBFGS, ConjugateGradient
    from fedstrategies.sppm.solver_spec import parse_solver
    from fedstrategies.sppm.solvers import (
        AdamSolver,
        InnerSolver,
        InnerState,
        LocalGDSolver,
        ProxGD,
    )
    from fedstrategies.sppm.strategy import SPPM
    from fedstrategies.sppm.subproblem import ProxProblem, prox_of_quadratic, prox_problem
    from fedstrategies.sppm.theory import Theory

__all__ = [
    "LBFGS",
    "SPPM",
    "AdamSolver",
    "CohortSolve",
    "ConjugateGradient",
    "FedProx",
    "GradientRule",
    "InnerSolver",
    "InnerState",
    "LocalGD",
    "LocalGDSolver",
    "LocalProxRule",
    "ProxGD",
    "ProxProblem",
    "SPPMClient",
    "Theory",
    "parse_solver",
    "prox_of_quadratic",
    "prox_problem",
]

_HOMES = {
    "algorithm": ("CohortSolve", "GradientRule", "LocalProxRule"),
    "baselines": ("FedProx", "LocalGD"),
    "client": ("SPPMClient",),
    "second_order": ("LBFGS", "ConjugateGradient"),
    "solver_spec": ("parse_solver",),
    "solvers": ("AdamSolver", "InnerSolver", "InnerState", "LocalGDSolver", "ProxGD"),
    "strategy": ("SPPM",),
    "subproblem": ("ProxProblem", "prox_of_quadratic", "prox_problem"),
    "theory": ("Theory",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
