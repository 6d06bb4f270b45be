"""Cases of the methods whose clients remember nothing: SPPM-AS with its family, and FedP3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fedstrategies.fedp3 import Calibration, FedP3, parse_aggregation, parse_layers
from fedstrategies.objectives import minimise
from fedstrategies.privacy import MessagePrivacy
from fedstrategies.pruning import GlobalPruning, LayerGroups, Wanda
from fedstrategies.sampling import (
    BlockSampling,
    NiceSampling,
    NonuniformSampling,
    Sampling,
    StratifiedSampling,
)
from fedstrategies.sppm import SPPM, AdamSolver, FedProx, LocalGD, SPPMClient, parse_solver
from fedstrategies.sppm.theory import sppm as sppm_theory
from tests.flower.faults import FaultyGrid
from tests.soak.faults_case import Case
from tests.soak.faults_goals import FixedPoint, Goal, Minimiser, Neighbourhood, SameLoss
from tests.soak.faults_invariants import AbortedCohorts, HonestUploads, UntouchedLayers
from tests.soak.faults_problems import Problem, layered, logistic, network
from tests.soak.faults_watch import Invariant

GROUPS = ((0, 3, 7), (1, 5), (2, 4, 6))
GAMMA = 5.0
LAWS: dict[str, Sampling] = {
    "nice": NiceSampling(cohort_size=3),
    "block": BlockSampling(blocks=GROUPS, probabilities=(0.5, 0.2, 0.3)),
    "stratified": StratifiedSampling(strata=GROUPS),
    "nonuniform": NonuniformSampling(
        probabilities=(0.1, 0.2, 0.05, 0.15, 0.1, 0.2, 0.05, 0.15),
    ),
}


def _sppm(
    solver: str | None, *, inner: int, law: str | None = None, goal: Goal | None = None, **how: Any
) -> Case:
    found = logistic(SPPMClient)
    sampling = None if law is None else LAWS[law]
    inner_solver = AdamSolver(lr=0.1) if solver == "adam" else parse_solver(solver or "lbfgs")

    def made() -> SPPM:
        return SPPM(
            prox_stepsize=GAMMA,
            inner_rounds=inner,
            solver=inner_solver,
            smoothness=found.smoothness,
            sampling=sampling,
            **how,
        )

    return Case(
        problem=found,
        strategy=made,
        watched=lambda grid: [AbortedCohorts(), HonestUploads(grid, found.batch)],
        goal=(_minimiser(found) if sampling is None else _near(found, sampling))
        if goal is None
        else goal,
    )


def _minimiser(found: Problem) -> Minimiser:
    def slope(x: torch.Tensor) -> torch.Tensor:
        return found.batch.value_and_gradient(x)[1].mean(dim=0)

    return Minimiser(slope=slope, mu=found.smoothness.mu)


def _near(found: Problem, sampling: Sampling) -> Neighbourhood:
    best = minimise(found.batch).x
    gradients = found.batch.value_and_gradient(best)[1]
    theory = sppm_theory(sampling, mu_i=found.smoothness.mu_i or (), gradients=gradients)
    return Neighbourhood(minimiser=best, theory=theory, gamma=GAMMA)


def _averaging(kind: type[LocalGD], **how: Any) -> Case:
    found = logistic(SPPMClient)
    return Case(
        problem=found,
        strategy=partial(kind, smoothness=found.smoothness, **how),
        watched=lambda grid: [HonestUploads(grid, found.batch)],
        goal=SameLoss() if "sampling" in how else FixedPoint(),
    )


SPPM_CASES: dict[str, Callable[[], Case]] = {
    "sppm-gd": lambda: _sppm("gd", inner=6),
    "sppm-cg": lambda: _sppm("cg", inner=4),
    "sppm-lbfgs": lambda: _sppm("lbfgs", inner=5),
    "sppm-local-gd": lambda: _sppm("local-gd:steps=3", inner=6, goal=FixedPoint()),
    "sppm-adam": lambda: _sppm("adam", inner=4, goal=SameLoss()),
    "sppm-gd-nice": lambda: _sppm("gd", inner=6, law="nice"),
    "sppm-lbfgs-block": lambda: _sppm("lbfgs", inner=5, law="block"),
    "sppm-cg-stratified": lambda: _sppm("cg", inner=4, law="stratified"),
    "sppm-gd-nonuniform": lambda: _sppm("gd", inner=6, law="nonuniform"),
    "sppm-freeze-nice": lambda: _sppm("gd", inner=6, law="nice", dropouts="freeze"),
    "local-gd": lambda: _averaging(LocalGD, local_steps=3),
    "local-gd-stratified": lambda: _averaging(LocalGD, local_steps=3, sampling=LAWS["stratified"]),
    "fedprox": lambda: _averaging(FedProx, local_steps=3, prox_stepsize=2.0),
    "fedprox-nice": lambda: _averaging(
        FedProx, local_steps=3, prox_stepsize=2.0, sampling=LAWS["nice"]
    ),
}


def _fedp3(
    layers: str,
    *,
    trained: Any = "all",
    goal: Goal | None = None,
    on: Callable[[], tuple[Problem, LayerGroups]] = layered,
    **how: Any,
) -> Case:
    found, groups = on()
    options = {"layers": parse_layers(layers), "trained": trained, "local_steps": 2, **how}

    def watched(grid: FaultyGrid) -> list[Invariant]:
        return [UntouchedLayers(), HonestUploads(grid, found.batch)]

    return Case(
        problem=found,
        strategy=lambda: FedP3(groups=groups, stepsize=0.2, **options),
        watched=watched,
        goal=SameLoss() if goal is None else goal,
    )


FEDP3_CASES: dict[str, Callable[[], Case]] = {
    "fedp3-lowerb": lambda: _fedp3("lowerb", trained="assigned"),
    "fedp3-opu2-pruned": lambda: _fedp3(
        "opu2", pruning=GlobalPruning(keep=0.7), aggregation=parse_aggregation("weighted")
    ),
    "fedp3-opr2-attention": lambda: _fedp3(
        "opr2", aggregation=parse_aggregation("attention"), sampling=NiceSampling(cohort_size=5)
    ),
    "fedp3-told": lambda: _fedp3(
        "opu2",
        on=network,
        pruning=GlobalPruning(keep=0.7, criterion=Wanda()),
        calibration=Calibration(every=3),
    ),
    "fedp3-server-noise": lambda: _fedp3(
        "opu2",
        message_privacy=MessagePrivacy(max_norm=1.0, noise_multiplier=0.02, simulated_seed=0),
    ),
}
