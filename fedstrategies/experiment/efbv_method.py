"""EF-BV and its special cases as experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedstrategies.compressors import parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.method import Method, count_releases, shared_settings
from fedstrategies.experiment.problem import Problem

if TYPE_CHECKING:
    from flwr.app import Context

__all__ = ["EFBVMethod"]

_STRATEGIES: dict[str, type[EFBV]] = {
    "efbv": EFBV,
    "ef21": EF21,
    "diana": DIANA,
    "gd": GradientDescent,
}


class EFBVMethod(Method):
    """EF-BV, EF21, DIANA or gradient descent."""

    config: EFBVConfig

    def __init__(self, config: EFBVConfig, problem: Problem) -> None:
        super().__init__(config, problem)

    def strategy(self) -> EFBV:
        """See `Method.strategy`."""
        config = self.config
        settings = {**shared_settings(config, self.problem), "prox": self.problem.prox}
        if config.downlink_compressor is not None:
            settings["downlink"] = parse_compressor(config.downlink_compressor)
        if config.algorithm != "gd":
            settings["compressor"] = parse_compressor(config.compressor or "")
            settings["shift_init"] = config.shift_init
        if config.algorithm == "efbv":
            settings |= {"lam": config.lam, "nu": config.nu}
        return _STRATEGIES[config.algorithm](**settings)  # type: ignore[arg-type]

    def releases(self) -> list[int]:
        """One gradient a participation; a first one with ``--shift-init gradient`` is none more."""
        rounds = self.config.rounds
        return count_releases(self.config.clients, self.cohorts(rounds), [1] * rounds)

    def client(self, context: Context) -> EFBVClient:
        """See `Method.client`."""
        index = int(context.node_config["partition-id"])
        return EFBVClient(
            context,
            objective=self.problem.objective(index),
            evaluation=self.problem.held_out_objective(index),
            privacy=self.privacy,
        )
