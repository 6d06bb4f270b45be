"""pfl-research in one process: its ``FederatedAveraging`` on its ``SimulatedBackend``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.script import main
from benchmarks.simulation.task import (
    BATCH,
    COHORT,
    STEPSIZE,
    Schedule,
    build_model,
    client_data,
    flat_weights,
)

__all__ = ["run"]


class _Trained(nn.Module):
    """The model with the loss and metrics that pfl asks a module for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.model(features), targets)

    def metrics(self, features: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
        """None: nothing is evaluated."""
        return {}


def run(name: str, schedule: Schedule, clock: Clock) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Laps(TrainingProcessCallback):  # type: ignore[misc]
        def on_train_begin(self, *, model: Any) -> Any:
            clock.start()
            return Metrics()

        def after_central_iteration(
            self, aggregate_metrics: Any, model: Any, *, central_iteration: int
        ) -> tuple[bool, Any]:
            clock.lap()
            return False, Metrics()

    def dataset(user: tuple[int, int]) -> Any:
        features, targets = client_data(user[1])
        rows = schedule.batches(*user).reshape(-1)
        return Dataset([features[rows], targets[rows]], user_id=str(user[1]))

    model = _Trained(build_model(name))
    members = iter(
        [(round, client) for round in range(len(schedule)) for client in schedule.cohort(round)]
    )
    users = FederatedDataset(dataset, lambda: next(members))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(schedule),
            evaluation_frequency=len(schedule) + 1,
            train_cohort_size=COHORT,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=users, val_data=None),
        model=PyTorchModel(
            model=model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=STEPSIZE, local_batch_size=BATCH
        ),
        callbacks=[Laps()],
    )
    return flat_weights(model)


if __name__ == "__main__":
    main(run, names=("pfl",))
