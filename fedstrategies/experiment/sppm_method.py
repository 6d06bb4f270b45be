"""SPPM-AS and its baselines as experiments."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from fedstrategies.experiment.cohort_law import cohort_law
from fedstrategies.experiment.method import Method, count_releases, shared_settings
from fedstrategies.experiment.problem import Problem
from fedstrategies.experiment.sppm_config import SPPMConfig
from fedstrategies.sampling import Sampling
from fedstrategies.sppm import SPPM, FedProx, LocalGD, LocalGDSolver, SPPMClient, parse_solver
from fedstrategies.sppm.importance import ImportanceStrategy

if TYPE_CHECKING:
    from flwr.app import Context

__all__ = ["SPPMMethod"]


class SPPMMethod(Method):
    """SPPM-AS, LocalGD or FedProx."""

    config: SPPMConfig

    def __init__(self, config: SPPMConfig, problem: Problem) -> None:
        super().__init__(config, problem)

    @cached_property
    def sampling(self) -> Sampling:
        """The law of cohorts; clients are clustered once."""
        return cohort_law(self.config, self.problem)

    def strategy(self) -> ImportanceStrategy:
        """See `Method.strategy`."""
        config = self.config
        settings = {**shared_settings(config, self.problem), "sampling": self.sampling}
        if config.algorithm != "sppm":
            settings["local_steps"] = config.local_steps
            if config.algorithm == "localgd":
                return LocalGD(**settings)  # type: ignore[arg-type]
            settings["prox_stepsize"] = config.prox_stepsize
            return FedProx(**settings)  # type: ignore[arg-type]
        del settings["stepsize"]
        settings |= {
            "prox_stepsize": config.prox_stepsize,
            "inner_rounds": config.inner_rounds,
            "solver": parse_solver(config.solver or ""),
            "tolerance": config.tolerance,
            "dropouts": config.dropouts,
            "prox": self.problem.prox,
        }
        return SPPM(**settings)  # type: ignore[arg-type]

    def releases(self) -> list[int]:
        """One gradient (H with local steps) for each exchange of a cohort that a client is in.

        With a tolerance the cohorts may be shorter, and nobody knows how many there are: all
        rounds count for everybody.
        """
        config = self.config
        local = config.local_steps or 1 if config.algorithm != "sppm" else self._solver_steps
        if config.tolerance:
            return [config.rounds * local] * config.clients
        length = config.inner_rounds or 1
        draws = -(-config.rounds // length)
        lengths = [length] * (draws - 1) + [config.rounds - length * (draws - 1)]
        steps = [local * exchanges for exchanges in lengths]
        return count_releases(config.clients, self.cohorts(draws), steps)

    @property
    def _solver_steps(self) -> int:
        solver = parse_solver(self.config.solver or "")
        return solver.steps if isinstance(solver, LocalGDSolver) else 1

    def client(self, context: Context) -> SPPMClient:
        """See `Method.client`."""
        index = int(context.node_config["partition-id"])
        return SPPMClient(
            context,
            objective=self.problem.objective(index),
            evaluation=self.problem.held_out_objective(index),
            privacy=self.privacy,
        )
