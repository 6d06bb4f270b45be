"""From a configuration to its strategy and clients: the one place that knows the families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedstrategies.compressors import parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.experiment.config import EFBVConfig
from fedstrategies.experiment.problem import Problem
from fedstrategies.sampling import FullParticipation, NiceSampling, Sampling

if TYPE_CHECKING:
    from flwr.app import Context

__all__ = ["build_client", "build_strategy"]


def build_strategy(config: EFBVConfig, problem: Problem) -> EFBV:
    """The strategy of ``config.algorithm``.

    Raises
    ------
    ValueError
        If a setting is impossible.
    """
    strategies: dict[str, type[EFBV]] = {
        "efbv": EFBV,
        "ef21": EF21,
        "diana": DIANA,
        "gd": GradientDescent,
    }
    keywords: dict[str, object] = {
        "smoothness": problem.smoothness,
        "stepsize": config.stepsize,
        "prox": problem.prox,
        "sampling": _sampling(config),
        "seed": config.seed,
        "num_clients": config.clients,
        "fraction_evaluate": 0.0,
    }
    if config.algorithm != "gd":
        keywords["compressor"] = parse_compressor(config.compressor or "")
        keywords["shift_init"] = config.shift_init
    if config.algorithm == "efbv":
        keywords |= {"lam": config.lam, "nu": config.nu}
    return strategies[config.algorithm](**keywords)  # type: ignore[arg-type]


def build_client(config: EFBVConfig, problem: Problem, context: Context) -> EFBVClient:
    """The client of the partition that ``context.node_config`` names.

    Raises
    ------
    ConfigError
        If the configuration has no such client.
    """
    partition_id = int(context.node_config["partition-id"])
    return EFBVClient(context, objective=problem.objective(partition_id))


def _sampling(config: EFBVConfig) -> Sampling:
    if config.cohort_size is None:
        return FullParticipation()
    return NiceSampling(cohort_size=config.cohort_size)
