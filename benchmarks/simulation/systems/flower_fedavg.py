"""Flower's own ``FedAvg`` with a plain ClientApp on Flower's simulation runtime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.flower import simulate
from benchmarks.simulation.flower_client import plain_app
from benchmarks.simulation.script import main
from benchmarks.simulation.task import COHORT, Schedule, build_model, flat_weights

__all__ = ["run"]


class ScheduledFedAvg(FedAvg):
    """FedAvg whose cohorts are the schedule's; everything else is Flower's."""

    def __init__(self, schedule: Schedule, **settings: Any) -> None:
        super().__init__(**settings)
        self.schedule = schedule
        self.node_of: dict[int, int] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client of the round's cohort, all with the same content."""
        if not self.node_of:
            self.node_of = _partitions(grid)
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        nodes = [self.node_of[client] for client in self.schedule.cohort(server_round - 1)]
        return [Message(record, node, MessageType.TRAIN) for node in nodes]


def run(name: str, schedule: Schedule, clock: Clock) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`."""

    def lap(server_round: int, arrays: ArrayRecord) -> None:
        if server_round == 0:
            clock.start()
        else:
            clock.lap()

    def serve(grid: Grid) -> npt.NDArray[np.float32]:
        strategy = ScheduledFedAvg(schedule, fraction_evaluate=0.0, min_train_nodes=COHORT)
        model = build_model(name)
        start = ArrayRecord(model.state_dict())
        result = strategy.start(grid, start, num_rounds=len(schedule), evaluate_fn=lap)
        model.load_state_dict(result.arrays.to_torch_state_dict(), strict=True)
        return flat_weights(model)

    return simulate(serve, plain_app(name, schedule.path))


def _partitions(grid: Grid) -> dict[int, int]:
    """Node of each partition, asked for once."""
    asked = [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]
    return {
        int(str(reply.content.config_records["id"]["partition"])): reply.metadata.src_node_id
        for reply in grid.send_and_receive(asked)
    }


if __name__ == "__main__":
    main(run, names=("flwr", "ray"))
