"""Scafflix, its relatives and baselines as experiments."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedstrategies.experiment.method import Method, count_releases, own_accuracies, shared_settings
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import Problem, load_problem
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.scafflix_config import ScafflixConfig
from fedstrategies.objectives import (
    BatchedObjective,
    ExactLocalSolver,
    FLIXObjectives,
    LocalSGD,
    LocalSolver,
    PersonalObjective,
    PersonalObjectives,
    Solution,
    minimise_flix,
)
from fedstrategies.random import Purpose, client_keys
from fedstrategies.scafflix import FLIX, FedAvg, IScaffnew, Scafflix, ScafflixClient, Scaffnew
from fedstrategies.scafflix.personal_strategy import PersonalStrategy
from fedstrategies.server_optimizer import parse_server_optimizer

if TYPE_CHECKING:
    from flwr.app import Context

__all__ = ["ScafflixMethod"]

_STRATEGIES: dict[str, type[PersonalStrategy]] = {
    "scafflix": Scafflix,
    "scaffnew": Scaffnew,
    "i-scaffnew": IScaffnew,
    "flix": FLIX,
    "fedavg": FedAvg,
}
_TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


class ScafflixMethod(Method):
    """Scafflix, Scaffnew, i-Scaffnew, FLIX or FedAvg."""

    config: ScafflixConfig

    def __init__(self, config: ScafflixConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self._seconds = 0.0
        self._alpha = torch.tensor(config.alphas, dtype=torch.float64)

    def strategy(self) -> PersonalStrategy:
        """See `Method.strategy`."""
        config = self.config
        settings = shared_settings(config, self.problem)
        settings["server_optimizer"] = parse_server_optimizer(config.server_optimizer)
        if config.algorithm in ("scafflix", "flix"):
            settings["alpha"] = config.alphas
        if config.algorithm != "flix":
            settings["local_steps"] = config.local_steps
        if config.algorithm not in ("flix", "fedavg"):
            settings["p"] = config.p
        return _STRATEGIES[config.algorithm](**settings)  # type: ignore[arg-type]

    def client(self, context: Context) -> ScafflixClient:
        """See `Method.client`."""
        index = int(context.node_config["partition-id"])
        self.problem.objective(index)  # says what is wrong if there is no such client
        return ScafflixClient(
            context,
            objective=self.personal.members[index],
            evaluation=self.problem.held_out_objective(index),
            privacy=self.privacy,
        )

    def releases(self) -> list[int]:
        """K gradients a participation, K of the round; FLIX one."""
        trial = self.strategy()
        trial.prepare(self.problem.start_point)
        rounds = range(1, self.config.rounds + 1)
        plans = [trial.plan(round)[0] for round in rounds]
        steps = [int(getattr(plan.rule, "local_steps", 1)) for plan in plans]
        cohorts = (plan.partition_ids for plan in plans)
        return count_releases(self.config.clients, cohorts, steps)

    @property
    def personal(self) -> PersonalObjectives:
        """All f_i with their x_i*; one copy in a process, whatever the algorithm and alpha."""
        config = self.config
        training = (config.local_epochs, config.local_stepsize, config.local_batch_size)
        return _personal_objectives(self.problem.config, training)

    def measured(self, objectives: BatchedObjective) -> FLIXObjectives:
        """``F_i(x) = f_i(alpha_i x + (1 - alpha_i) x_i*)``: the loss of the deployed models."""
        known = objectives if isinstance(objectives, PersonalObjectives) else self.personal
        self._solve()
        return known.flix(self._alpha)

    def solution(self) -> Solution:
        """The minimiser of the FLIX objective.

        Raises
        ------
        ConfigError
            If the model has no solver.
        """
        if not self.config.solves_locally:
            return self.problem.solution
        self._solve()
        try:
            return minimise_flix(
                self.personal.flix(self._alpha),
                smoothness=self._flix_smoothness,
                tolerance=10 * _TOLERANCE[self.problem.config.dtype or "float64"],
            )
        except ValueError as error:
            raise ConfigError(f"fstar: {error}") from None

    @property
    def _flix_smoothness(self) -> float | None:
        """``(1/n) sum_i alpha_i^2 L_i``."""
        known = self.problem.smoothness
        if known is None or known.L_i is None:
            return None
        return float((self._alpha.square() * torch.tensor(known.L_i, dtype=torch.float64)).mean())

    def accuracies(self, x: Tensor) -> dict[str, float]:
        """The server's model, and every client's deployed model on its own held-out rows."""
        deployed = self.personal.deployed(x, self._alpha).expand(len(self._alpha), -1)
        return {**super().accuracies(x), **own_accuracies(self.problem, list(deployed))}

    def personal_models(self, x: Tensor) -> list[Mapping[str, Tensor]]:
        """Every client's deployed model, if ``save_personal`` is set."""
        if not self.config.save_personal:
            return []
        deployed = self.personal.deployed(x, self._alpha).expand(len(self._alpha), -1)
        return [self.problem.named(row) for row in deployed]

    def local_solve(self) -> dict[str, float | str]:
        """Cost of the x_i*: passes over each client's rows, seconds in this process."""
        if not self.config.solves_locally:
            return {}
        found = [member.local_optimum for member in self.personal.members]
        passes = [optimum.passes for optimum in found]
        return {
            "solver": self.personal.members[0].solver.spec,
            "passes_mean": sum(passes) / len(passes),
            "passes_max": max(passes),
            "residual_max": max(optimum.residual for optimum in found),
            "seconds": self._seconds,
        }

    def _solve(self) -> None:
        """Find all x_i* that are needed, and remember how long it took."""
        start = time.perf_counter()
        self.personal.local_optima((self._alpha < 1).nonzero()[:, 0])
        self._seconds += time.perf_counter() - start


@lru_cache(maxsize=4)
def _personal_objectives(
    config: ProblemConfig, training: tuple[int | None, float | None, int | None]
) -> PersonalObjectives:
    problem = load_problem(config)
    ids = torch.arange(config.clients)
    keys = client_keys(config.seed, 0, ids, Purpose.LOCAL_OPTIMUM)
    members = [
        PersonalObjective(
            objective=problem.objective(index),
            solver=_solver(problem, index, training),
            start=problem.start_point,
            key=keys[index : index + 1],
        )
        for index in range(config.clients)
    ]
    return PersonalObjective.stack(members)


def _solver(
    problem: Problem, index: int, training: tuple[int | None, float | None, int | None]
) -> LocalSolver:
    epochs, stepsize, batch_size = training
    if epochs is not None and stepsize is not None:
        return LocalSGD(epochs=epochs, stepsize=stepsize, batch_size=batch_size)
    known = problem.smoothness
    local = None if known is None or known.L_i is None else known.L_i[index]
    tolerance = _TOLERANCE[problem.config.dtype or "float64"]
    return ExactLocalSolver(tolerance=tolerance, smoothness=local)
