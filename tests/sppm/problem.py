"""Quadratic clients for SPPM-AS: cohorts, proxes and solutions in closed form."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from torch import Tensor

from fedstrategies.flower import FedApp, client_app
from fedstrategies.objectives import Objective, Smoothness
from fedstrategies.sampling import (
    BlockSampling,
    FullParticipation,
    NiceSampling,
    NonuniformSampling,
    Sampling,
    StratifiedSampling,
)
from fedstrategies.sppm import SPPMClient, prox_of_quadratic
from tests.efbv.helpers import problem
from tests.quadratics import Quadratic, quadratics

CLIENTS, DIMENSION = 8, 4
GROUPS = ((0, 3, 7), (1, 5), (2, 4, 6))
LAWS: dict[str, Sampling] = {
    "full": FullParticipation(),
    "nice": NiceSampling(cohort_size=3),
    "nonuniform": NonuniformSampling(
        probabilities=(0.1, 0.2, 0.05, 0.15, 0.1, 0.2, 0.05, 0.15),
    ),
    "block": BlockSampling(blocks=GROUPS, probabilities=(0.5, 0.2, 0.3)),
    "stratified": StratifiedSampling(strata=GROUPS),
}


class Quadratics:
    """f_i(x) = (x - c_i)^T A_i (x - c_i)/2 for n = 8 clients in d = 4."""

    def __init__(self) -> None:
        personal, self.smoothness = quadratics(CLIENTS, DIMENSION, seed=1)
        found = [member.objective for member in personal.members]
        self.objectives = [one for one in found if isinstance(one, Quadratic)]
        self.hessians = torch.stack([one.matrix for one in self.objectives])
        self.linear = torch.stack([one.matrix @ one.centre for one in self.objectives])
        self.minimiser = torch.linalg.solve(self.hessians.mean(0), self.linear.mean(0))
        self.gradients = (self.hessians @ self.minimiser) - self.linear
        self.mu_i = self.smoothness.mu_i or ()

    def weights(self, law: Sampling, members: Tensor) -> Tensor:
        return 1 / (CLIENTS * law.inclusion_probabilities(CLIENTS)[members])

    def prox(self, x: Tensor, law: Sampling, members: Tensor, gamma: float) -> Tensor:
        weights = self.weights(law, members)
        return prox_of_quadratic(
            x,
            hessian=(weights[:, None, None] * self.hessians[members]).sum(0),
            linear=(weights[:, None] * self.linear[members]).sum(0),
            gamma=gamma,
        )


class Setting:
    """An app over given clients."""

    def __init__(self, objectives: list[Objective], smoothness: Smoothness) -> None:
        self.objectives, self.smoothness = objectives, smoothness
        self.app: FedApp = client_app(self.client)
        self.start = ArrayRecord({"x": Array(np.zeros(objectives[0].dimension))})

    def client(self, context: Context) -> SPPMClient:
        index = int(context.node_config["partition-id"])
        return SPPMClient(context, objective=self.objectives[index])


def quadratic_setting() -> Setting:
    found = Quadratics()
    return Setting(list(found.objectives), found.smoothness)


def logistic_setting() -> Setting:
    objectives, smoothness = problem(CLIENTS, 12, l2=0.5)
    return Setting(list(objectives), smoothness)
