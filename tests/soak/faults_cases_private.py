"""Cases of the methods whose clients are private."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedstrategies.compressors import Identity, parse_compressor
from fedstrategies.efbv import EFBV, EFBVClient, GradientDescent
from fedstrategies.fedp3 import Calibration, FedP3, LDPFedP3, parse_layers
from fedstrategies.flower import BaseStrategy
from fedstrategies.privacy import MessagePrivacy
from fedstrategies.pruning import RIA, GlobalPruning
from fedstrategies.scafflix import FedAvg, Scafflix, ScafflixClient
from fedstrategies.sppm import SPPM, LocalGD, SPPMClient, parse_solver
from tests.flower.faults import FaultyGrid
from tests.soak.faults_case import Case
from tests.soak.faults_goals import SameLoss
from tests.soak.faults_invariants import (
    AbortedCohorts,
    ControlVariates,
    SharedMean,
    Spending,
    UntouchedLayers,
)
from tests.soak.faults_problems import layered, logistic, network
from tests.soak.faults_watch import Invariant


def _private(kind: Callable[..., BaseStrategy], client: Any, **how: Any) -> Case:
    plain = logistic(client)
    made = partial(kind, smoothness=plain.smoothness, **how)

    def watched(grid: FaultyGrid) -> list[Invariant]:
        strategy = made()
        own: list[Invariant] = [Spending(grid)]
        if isinstance(strategy, SPPM):
            own.append(AbortedCohorts())
        if isinstance(strategy, EFBV):
            own.append(SharedMean(grid))
        if isinstance(strategy, Scafflix):
            own.append(ControlVariates(grid))
        return own

    return Case(problem=plain.private(), strategy=made, watched=watched, goal=SameLoss())


def _private_fedp3(kind: Callable[..., FedP3], layers: str, **how: Any) -> Case:
    hidden = how.pop("message_privacy", None)
    found, groups = how.pop("on", layered)()
    found = found.private() if hidden is None else layered(message_privacy=hidden)[0]
    return Case(
        problem=found,
        strategy=lambda: kind(groups=groups, layers=parse_layers(layers), stepsize=0.1, **how),
        watched=lambda grid: [UntouchedLayers(), Spending(grid)],
        goal=SameLoss(),
    )


PRIVATE_CASES: dict[str, Callable[[], Case]] = {
    "private-efbv": lambda: _private(EFBV, EFBVClient, compressor=Identity()),
    "private-gd-downlink": lambda: _private(
        GradientDescent, EFBVClient, downlink=parse_compressor("top-k:k=4")
    ),
    "private-scafflix": lambda: _private(Scafflix, ScafflixClient, alpha=1.0, local_steps=2),
    "private-fedavg": lambda: _private(FedAvg, ScafflixClient, local_steps=3, stepsize=0.1),
    "private-sppm": lambda: _private(
        SPPM, SPPMClient, solver=parse_solver("gd"), inner_rounds=3, prox_stepsize=5.0
    ),
    "private-local-gd": lambda: _private(LocalGD, SPPMClient, local_steps=3),
    "ldp-fedp3": lambda: _private_fedp3(LDPFedP3, "opu2", local_steps=2),
    "ldp-fedp3-told": lambda: _private_fedp3(
        LDPFedP3,
        "opu2",
        on=network,
        local_steps=2,
        pruning=GlobalPruning(keep=0.7, criterion=RIA()),
        calibration=Calibration(every=3, max_norm=4.0),
    ),
    "fedp3-hidden-messages": lambda: _private_fedp3(
        FedP3,
        "opu2",
        message_privacy=MessagePrivacy(max_norm=1.0, noise_multiplier=0.05, simulated_seed=0),
    ),
}
