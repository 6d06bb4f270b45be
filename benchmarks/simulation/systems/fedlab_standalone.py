"""FedLab's standalone pipeline: its serial trainer and its synchronous server in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.script import main
from benchmarks.simulation.stand_ins import stand_in_for
from benchmarks.simulation.task import (
    BATCH,
    CLIENTS,
    COHORT,
    STEPSIZE,
    Schedule,
    build_model,
    flat_weights,
)

__all__ = ["run"]


def run(name: str, schedule: Schedule, clock: Clock) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`."""
    # FedLab imports its readers of image sets, of which nothing is used here.
    stand_in_for("torchvision", "PIL", "pynvml")
    from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
    from fedlab.contrib.algorithm.basic_server import SyncServerHandler
    from fedlab.core.standalone import StandalonePipeline

    class Clients:
        """What the trainer asks for a client's batches: they come without a data loader."""

        round = 0

        def get_dataloader(self, client: int, batch_size: int) -> Any:
            return schedule.tensors(self.round, client)

    class Server(SyncServerHandler):  # type: ignore[misc]
        def sample_clients(self) -> list[int]:
            return schedule.cohort(self.round)

    class Pipeline(StandalonePipeline):  # type: ignore[misc]
        def evaluate(self) -> None:
            clients.round = self.handler.round
            clock.lap()

    clients = Clients()
    quiet = _Quiet()
    model = build_model(name)
    trainer = SGDSerialClientTrainer(build_model(name), CLIENTS, logger=quiet)
    trainer.setup_dataset(clients)
    trainer.setup_optim(1, BATCH, STEPSIZE)
    server = Server(model, len(schedule), COHORT / CLIENTS, logger=quiet)
    pipeline = Pipeline(server, trainer)
    clock.start()
    pipeline.main()
    return flat_weights(server.model)


class _Quiet:
    """In place of FedLab's logger, which writes a line or two a client."""

    def info(self, *values: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    main(run, names=("fedlab",))
