"""The arithmetic alone: one model, one optimiser, a loop over clients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.simulation.clock import Clock
from benchmarks.simulation.script import main
from benchmarks.simulation.task import (
    COHORT,
    STEPSIZE,
    Schedule,
    build_model,
    flat_weights,
    local_steps,
)

__all__ = ["run"]


def run(name: str, schedule: Schedule, clock: Clock) -> npt.NDArray[np.float32]:
    """Train; see `benchmarks.simulation.script.System`."""
    model = build_model(name)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=STEPSIZE)
    server = [parameter.detach().clone() for parameter in parameters]
    clock.start()
    for round in range(len(schedule)):
        total = [torch.zeros_like(value) for value in server]
        for client in schedule.cohort(round):
            _load(parameters, server)
            local_steps(model, optimizer, schedule.tensors(round, client))
            with torch.no_grad():
                for value, parameter in zip(total, parameters, strict=True):
                    value.add_(parameter)
        server = [value.div_(COHORT) for value in total]
        clock.lap()
    _load(parameters, server)
    return flat_weights(model)


@torch.no_grad()
def _load(parameters: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


if __name__ == "__main__":
    main(run, names=())
