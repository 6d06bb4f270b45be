"""Every kind of method on a small problem, and what is compared of its runs on actors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord

from fedstrategies.compressors import CompK, RandK, parse_compressor
from fedstrategies.efbv import EF21, EFBV, GradientDescent
from fedstrategies.engines import CohortGrid, RayGrid
from fedstrategies.fedp3 import FedP3, parse_layers
from fedstrategies.flower import BaseStrategy, FedApp
from fedstrategies.pruning import GlobalPruning
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FedAvg as LocalSteps
from fedstrategies.scafflix import Scafflix, Scaffnew
from fedstrategies.sppm import SPPM, ConjugateGradient, LocalGDSolver
from fedstrategies.wire import encode_vector
from tests.fedp3.setting import Setting as Images
from tests.flower.conftest import CLIENTS, DIMENSION, Setting
from tests.scafflix.setting import RANDOM
from tests.scafflix.setting import Setting as Personal
from tests.sppm.problem import LAWS, quadratic_setting

FOUR = NiceSampling(cohort_size=4)
"""Half of the clients a round."""

FRAME = len(encode_vector(torch.zeros(DIMENSION, dtype=torch.float64)))
"""Bytes of one dense vector."""


@dataclass(frozen=True)
class Case:
    """A method on its problem."""

    app: FedApp
    start: ArrayRecord
    strategy: Callable[[], BaseStrategy]

    def run(self, grid: Any, rounds: int = 8, **options: Any) -> Run:
        strategy, run = self.strategy(), Run()
        strategy.start(grid, self.start, num_rounds=rounds, callbacks=[run], **options)
        run.strategy = strategy
        return run

    def grid(self, actors: int | None = None, **options: Any) -> Any:
        if actors is None:
            return CohortGrid(self.app, num_clients=CLIENTS, fast="require")
        return RayGrid(
            self.app, num_clients=CLIENTS, actors=actors, **{"fast": "require", **options}
        )


class Run:
    """Every model and counter of a run."""

    strategy: Any

    def __init__(self) -> None:
        self.points: list[torch.Tensor] = []
        self.counts: list[tuple[int, ...]] = []
        self.recovery: list[int] = []

    def on_start(self, x: torch.Tensor) -> None:
        self.points.append(x.clone())

    def on_round(self, record: Any) -> None:
        self.points.append(record.x.clone())
        self.counts.append(
            (record.participants, record.failures, record.uplink_bytes, record.downlink_bytes)
        )
        self.recovery.append(record.recovery_bytes)

    def on_end(self) -> None: ...

    def assert_equal(self, other: Run) -> None:
        assert len(self.points) == len(other.points)
        assert all(map(torch.equal, self.points, other.points))
        assert self.counts == other.counts
        assert self.strategy.memory.keys() == other.strategy.memory.keys()
        for name, value in self.strategy.memory.items():
            assert torch.equal(value, other.strategy.memory[name])


SILENT = {"fraction_evaluate": 0.0}
"""Evaluation costs more than all else here, the same way for all cases of a family: one has it."""


def efbv(**settings: Any) -> Case:
    found = Setting()
    settings = SILENT | settings
    kind = settings.pop("kind", EFBV)
    return Case(found.app, found.start, lambda: kind(smoothness=found.smoothness, **settings))


def scafflix(kind: Any = Scafflix, **settings: Any) -> Case:
    found = Personal()
    settings = SILENT | settings
    return Case(found.app, found.start, lambda: kind(smoothness=found.smoothness, **settings))


def fedp3(**settings: Any) -> Case:
    found = Images(batch_size=4)
    settings = SILENT | settings
    return Case(
        found.app,
        found.start,
        lambda: FedP3(groups=found.groups, stepsize=0.2, local_steps=(1, 2) * 4, **settings),
    )


def sppm(**settings: Any) -> Case:
    found = quadratic_setting()
    settings = SILENT | settings
    return Case(found.app, found.start, lambda: SPPM(smoothness=found.smoothness, **settings))


CASES: dict[str, Callable[[], Case]] = {
    "efbv": lambda: efbv(compressor=CompK(k=2, k_prime=6), seed=3),
    "efbv-4-of-8-gradient": lambda: efbv(
        compressor=RandK(k=2), sampling=FOUR, shift_init="gradient", fraction_evaluate=1.0
    ),
    "ef21-natural": lambda: efbv(kind=EF21, compressor=parse_compressor("top-k:k=3+natural")),
    "qsgd": lambda: efbv(compressor=parse_compressor("qsgd:levels=4")),
    "half-precision": lambda: efbv(compressor=parse_compressor("top-k:k=4+cast:bfloat16")),
    "gd": lambda: efbv(kind=GradientDescent),
    "scafflix": lambda: scafflix(alpha=RANDOM),
    "scafflix-4-of-8": lambda: scafflix(alpha=RANDOM, sampling=FOUR, fraction_evaluate=1.0),
    "scaffnew": lambda: scafflix(Scaffnew),
    "fedavg": lambda: scafflix(LocalSteps, local_steps=3, sampling=FOUR),
    "fedp3": lambda: fedp3(
        layers=parse_layers("opu2"), pruning=GlobalPruning(keep=0.6), fraction_evaluate=1.0
    ),
    "sppm-gradients": lambda: sppm(
        solver=ConjugateGradient(), inner_rounds=3, sampling=LAWS["stratified"]
    ),
    "sppm-models": lambda: sppm(
        solver=LocalGDSolver(steps=2),
        inner_rounds=2,
        sampling=LAWS["nice"],
        fraction_evaluate=1.0,
    ),
}
