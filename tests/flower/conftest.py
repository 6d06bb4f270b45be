from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context

from fedstrategies.efbv import EFBVClient
from fedstrategies.flower import FedApp, client_app
from fedstrategies.objectives import LogisticRegression, Smoothness
from tests.efbv.helpers import problem

CLIENTS, DIMENSION = 8, 12


class Setting:
    """A small problem, its app and its start point."""

    def __init__(self) -> None:
        self.objectives, self.smoothness = problem(CLIENTS, DIMENSION)
        self.batch = LogisticRegression.stack(self.objectives)
        self.app: FedApp = client_app(self.client)
        self.start = ArrayRecord({"weight": Array(np.zeros(DIMENSION))})

    def client(self, context: Context) -> EFBVClient:
        index = int(context.node_config["partition-id"])
        return EFBVClient(context, objective=self.objectives[index])

    def gradient_norm(self, x: torch.Tensor) -> float:
        return float(self.batch.value_and_gradient(x)[1].mean(dim=0).norm())


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def constants(setting: Setting) -> Smoothness:
    return setting.smoothness
