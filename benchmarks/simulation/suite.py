"""The same client app and strategy of this suite, whatever engine they run on."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid
from torch import Tensor, nn

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.schedule import SEED
from benchmarks.simulation.task import (
    BATCH,
    CLIENTS,
    COHORT,
    STEPS,
    STEPSIZE,
    Schedule,
    build_model,
    client_data,
)
from fedstrategies import FedAvg, NiceSampling, ScafflixClient, TorchObjective, client_app
from fedstrategies.flower import FedApp, RoundRecord

__all__ = ["app", "train"]


def app(name: str) -> FedApp:
    """The ClientApp: unmodified `TorchObjective`, which draws its batches by key."""

    def client(context: Context) -> ScafflixClient:
        partition = int(context.node_config["partition-id"])
        return ScafflixClient(context, objective=_objective(name, partition))

    return client_app(client)


def train(name: str, schedule: Schedule, clock: Clock, grid: Grid) -> npt.NDArray[np.float32]:
    """Run as many rounds as the schedule has; its cohorts and batches are the strategy's own."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    strategy = FedAvg(
        local_steps=STEPS,
        stepsize=STEPSIZE,
        sampling=NiceSampling(cohort_size=COHORT),
        num_clients=CLIENTS,
        seed=SEED,
        fraction_evaluate=0.0,
    )
    start = ArrayRecord(build_model(name).state_dict())
    strategy.start(grid, start, num_rounds=len(schedule), callbacks=[_Laps(clock)])
    return np.asarray(strategy.x.numpy(), dtype=np.float32)


class _Laps:
    """Stops the clock after each round."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_start(self, x: Tensor) -> None:
        """The first round begins."""
        self.clock.start()

    def on_round(self, record: RoundRecord) -> None:
        """A round is committed."""
        self.clock.lap()

    def on_end(self) -> None:
        """Nothing to close."""


@cache
def _module(name: str) -> nn.Module:
    return build_model(name)


@cache
def _objective(name: str, partition: int) -> TorchObjective:
    return TorchObjective(
        module=_module(name),
        loss=nn.CrossEntropyLoss(),
        data=client_data(partition),
        batch_size=BATCH,
    )
