"""fluke's server and clients in one process."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.script import main
from benchmarks.simulation.stand_ins import stand_in_for
from benchmarks.simulation.task import (
    CLIENTS,
    COHORT,
    STEPS,
    STEPSIZE,
    Schedule,
    build_model,
    flat_weights,
)

__all__ = ["run"]


def run(name: str, schedule: Schedule, clock: Clock) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`."""
    # fluke imports its readers, plots and trackers, of which nothing is used here.
    stand_in_for("torchvision", "datasets", "seaborn", "wandb", "clearml", "tensorboard", "opacus")
    from fluke import FlukeENV
    from fluke.client import Client
    from fluke.config import OptimizerConfigurator
    from fluke.server import Server

    class Batches:
        """A client's batches of the round; they come without a data loader."""

        def __init__(self, client: int) -> None:
            self.client, self.round = client, 0

        def __iter__(self) -> Any:
            return schedule.tensors(self.round, self.client)

        def __len__(self) -> int:
            return STEPS

    class ScheduledClient(Client):  # type: ignore[misc]
        def local_update(self, current_round: int) -> None:
            self.train_set.round = current_round - 1
            super().local_update(current_round)

    class ScheduledServer(Server):  # type: ignore[misc]
        def get_eligible_clients(self, eligible_perc: float) -> list[Any]:
            return [self.clients[client] for client in schedule.cohort(self._rounds)]

    class Laps:
        def start_round(self, *_: Any, **__: Any) -> None:
            if not clock.seconds:
                clock.start()

        def end_round(self, *_: Any, **__: Any) -> None:
            clock.lap()

        def __getattr__(self, event: str) -> Any:
            return lambda *_, **__: None

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    FlukeENV().set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    model = build_model(name)
    optimizer = OptimizerConfigurator({"name": "SGD", "lr": STEPSIZE})
    clients = [
        ScheduledClient(
            index=client,
            train_set=Batches(client),
            test_set=None,
            optimizer_cfg=optimizer,
            loss_fn=nn.CrossEntropyLoss(),
            local_epochs=1,
        )
        for client in range(CLIENTS)
    ]
    server = ScheduledServer(model, None, clients)
    for client in clients:
        client.set_channel(server.channel)
    server.attach(Laps())
    server.fit(n_rounds=len(schedule), eligible_perc=COHORT / CLIENTS, finalize=False)
    return flat_weights(server.model)


if __name__ == "__main__":
    main(run, names=("fluke-fl",))
