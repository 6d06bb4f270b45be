"""A small heterogeneous problem with its app, weights and the solution of the FLIX objective."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from torch import Tensor

from fedstrategies.flower import FedApp, client_app
from fedstrategies.objectives import ExactLocalSolver, LogisticRegression, PersonalObjective
from fedstrategies.random import Purpose, client_keys
from fedstrategies.scafflix import ScafflixClient
from tests.efbv.helpers import problem

CLIENTS, DIMENSION = 8, 12
EQUAL = (0.3,) * CLIENTS
RANDOM = (0.9, 0.2, 0.5, 1.0, 0.35, 0.7, 0.15, 0.6)


class Setting:
    def __init__(self, save_to: Path | None = None) -> None:
        self.objectives, self.smoothness = problem(CLIENTS, DIMENSION, l2=0.5)
        self.batch = LogisticRegression.stack(self.objectives)
        self.app: FedApp = client_app(self.client)
        self.start = ArrayRecord({"weight": Array(np.zeros(DIMENSION))})
        self.save_to = save_to
        self.personal = PersonalObjective.stack(
            [
                PersonalObjective(
                    objective=objective,
                    solver=ExactLocalSolver(),
                    key=client_keys(0, 0, torch.tensor([i]), Purpose.LOCAL_OPTIMUM),
                )
                for i, objective in enumerate(self.objectives)
            ]
        )

    def client(self, context: Context) -> ScafflixClient:
        index = int(context.node_config["partition-id"])
        path = None if self.save_to is None else self.save_to / f"{index}.safetensors"
        return ScafflixClient(context, objective=self.objectives[index], save_to=path)

    def gradient_norm(self, x: Tensor, alpha: tuple[float, ...]) -> float:
        """||grad|| of the FLIX objective, which vanishes at its minimiser alone."""
        flix = self.personal.flix(torch.tensor(alpha, dtype=torch.float64))
        return float(flix.value_and_gradient(x)[1].mean(dim=0).norm())
