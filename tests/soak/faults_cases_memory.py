"""Cases of the methods whose clients remember: EF-BV and Scafflix with their families."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fedstrategies.compressors import parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV, GradientDescent
from fedstrategies.flower import BaseStrategy
from fedstrategies.objectives import L1
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FLIX, FedAvg, IScaffnew, Scafflix, ScafflixClient, Scaffnew
from fedstrategies.server_optimizer import SGD
from tests.flower.faults import FaultyGrid
from tests.soak.faults_case import Case
from tests.soak.faults_goals import FixedPoint, Goal, Minimiser, SameBits
from tests.soak.faults_invariants import (
    ControlVariates,
    HonestUploads,
    SameModelEverywhere,
    SharedMean,
)
from tests.soak.faults_problems import CLIENTS, logistic, personal
from tests.soak.faults_watch import Invariant

RANDOM = (0.9, 0.2, 0.5, 1.0, 0.35, 0.7, 0.15, 0.6)


def _efbv(
    kind: Callable[..., EFBV], *, goal: Goal | None = None, deterministic: bool = False, **how: Any
) -> Case:
    found = logistic()
    made = partial(kind, smoothness=found.smoothness, **how)

    def watched(grid: FaultyGrid) -> list[Invariant]:
        one: list[Invariant] = [SharedMean(grid), HonestUploads(grid, found.batch)]
        return [*one, SameModelEverywhere(grid)] if "downlink" in how else one

    def slope(x: torch.Tensor) -> torch.Tensor:
        return found.batch.value_and_gradient(x)[1].mean(dim=0)

    optimum = Minimiser(slope=slope, mu=found.smoothness.mu)
    return Case(
        problem=found,
        strategy=made,
        watched=watched,
        goal=optimum if goal is None else goal,
        deterministic=deterministic,
    )


_C = parse_compressor

EFBV_CASES: dict[str, Callable[[], Case]] = {
    "efbv": lambda: _efbv(EFBV, compressor=_C("top-k:k=3")),
    "efbv-comp": lambda: _efbv(EFBV, compressor=_C("comp:k=2,k_prime=5")),
    "efbv-gradient-shifts": lambda: _efbv(EFBV, compressor=_C("rand-k:k=3"), shift_init="gradient"),
    "efbv-5-of-8": lambda: _efbv(
        EFBV, compressor=_C("top-k:k=3"), sampling=NiceSampling(cohort_size=5)
    ),
    "efbv-l1": lambda: _efbv(
        EFBV, compressor=_C("top-k:k=3"), prox=L1(0.02), goal=FixedPoint(rounds=8000)
    ),
    "efbv-reset": lambda: _efbv(EFBV, compressor=_C("top-k:k=3"), memory_budget=0),
    "efbv-redo": lambda: _efbv(
        EFBV,
        compressor=_C("rand-k:k=3"),
        on_failure="redo",
        goal=SameBits(),
        deterministic=True,
    ),
    "efbv-downlink": lambda: _efbv(EFBV, compressor=_C("top-k:k=3"), downlink=_C("top-k:k=3")),
    "efbv-downlink-redo": lambda: _efbv(
        EFBV,
        compressor=_C("top-k:k=3"),
        downlink=_C("rand-k:k=3"),
        on_failure="redo",
        goal=SameBits(),
        deterministic=True,
    ),
    "ef21": lambda: _efbv(EF21, compressor=_C("top-k:k=4+natural")),
    "ef21-downlink-5-of-8": lambda: _efbv(
        EF21,
        compressor=_C("top-k:k=3"),
        downlink=_C("top-k:k=4"),
        sampling=NiceSampling(cohort_size=5),
    ),
    "diana": lambda: _efbv(DIANA, compressor=_C("rand-k:k=4")),
    "diana-qsgd": lambda: _efbv(DIANA, compressor=_C("qsgd:levels=8")),
    "diana-downlink": lambda: _efbv(DIANA, compressor=_C("rand-k:k=4"), downlink=_C("natural")),
    "gd": lambda: _efbv(GradientDescent),
    "gd-downlink": lambda: _efbv(GradientDescent, downlink=_C("top-k:k=3")),
}


def _scafflix(
    kind: Callable[..., BaseStrategy],
    *,
    alpha: float | tuple[float, ...] = 1.0,
    goal: Goal | None = None,
    deterministic: bool = False,
    **how: Any,
) -> Case:
    found = logistic(ScafflixClient)
    weights = (alpha,) * CLIENTS if isinstance(alpha, float) else alpha
    own = personal(found)
    flix = own.flix(torch.tensor(weights, dtype=torch.float64))
    settings = {**how, "alpha": weights} if kind in (Scafflix, FLIX) else how

    def watched(grid: FaultyGrid) -> list[Invariant]:
        honest = HonestUploads(grid, own)
        made = kind(smoothness=found.smoothness, **settings)
        return [ControlVariates(grid), honest] if isinstance(made, Scafflix) else [honest]

    def slope(x: torch.Tensor) -> torch.Tensor:
        return flix.value_and_gradient(x)[1].mean(dim=0)

    pairs = zip(weights, found.smoothness.mu_i or (), strict=True)
    mu = sum(a * a * m for a, m in pairs) / CLIENTS
    return Case(
        problem=found,
        strategy=partial(kind, smoothness=found.smoothness, **settings),
        watched=watched,
        goal=Minimiser(slope=slope, mu=mu) if goal is None else goal,
        deterministic=deterministic,
    )


SCAFFLIX_CASES: dict[str, Callable[[], Case]] = {
    "scafflix": lambda: _scafflix(Scafflix, alpha=RANDOM),
    "scafflix-2-of-8": lambda: _scafflix(
        Scafflix, alpha=RANDOM, local_steps=2, sampling=NiceSampling(cohort_size=2)
    ),
    "scafflix-server-step": lambda: _scafflix(
        Scafflix, alpha=RANDOM, local_steps=2, server_optimizer=SGD(lr=0.7)
    ),
    "scafflix-reset": lambda: _scafflix(Scafflix, alpha=RANDOM, local_steps=2, memory_budget=0),
    "scafflix-redo": lambda: _scafflix(
        Scafflix, alpha=RANDOM, on_failure="redo", goal=SameBits(), deterministic=True
    ),
    "i-scaffnew": lambda: _scafflix(IScaffnew),
    "scaffnew": lambda: _scafflix(Scaffnew),
    "flix": lambda: _scafflix(FLIX, alpha=RANDOM),
    "fedavg": lambda: _scafflix(FedAvg, local_steps=3, goal=FixedPoint()),
}
