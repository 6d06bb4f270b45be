"""A run whose memory is what its clients remember; reports its own peak as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from torch import Tensor

from fedstrategies.compressors import TopK
from fedstrategies.efbv import EF21, EFBVClient
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import client_app
from fedstrategies.layout import Layout
from fedstrategies.objectives import Objective

CLIENTS, DIMENSION = 120, 250_000


class Distance(Objective):
    """||x - c_i||^2/2, c_i drawn again for every gradient: no data is kept."""

    def __init__(self, client: int) -> None:
        self._client = client

    @property
    def layout(self) -> Layout:
        return Layout(names=("x",), shapes=((DIMENSION,),), dtype=torch.float32)

    @property
    def num_examples(self) -> int:
        return 1

    def initial_arrays(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(DIMENSION)}

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(self._client)
        slope = x - torch.randn(DIMENSION, generator=draw)
        return 0.5 * slope @ slope, slope

    def value(self, x: Tensor) -> Tensor:
        return self.value_and_gradient(x)[0]

    def accuracy(self, x: Tensor) -> Tensor:
        return torch.full((), float("nan"))


def peak_bytes() -> int:
    """Largest resident size of this program; ru_maxrss may be that of the process it came from."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not tell the peak")


def client(context: Context) -> EFBVClient:
    objective = Distance(int(context.node_config["partition-id"]))
    return EFBVClient(context, objective=objective)


def main() -> None:
    small = CohortGrid(client_app(client), num_clients=2, fast="require")
    start = ArrayRecord({"x": Array(np.zeros(DIMENSION, dtype=np.float32))})
    EF21(compressor=TopK(k=2500), stepsize=0.1, fraction_evaluate=0.0).start(
        small, start, num_rounds=1
    )
    before = peak_bytes()
    grid = CohortGrid(client_app(client), num_clients=CLIENTS, fast="require")
    strategy = EF21(compressor=TopK(k=2500), stepsize=0.1, fraction_evaluate=0.0)
    strategy.start(grid, start, num_rounds=1)
    ended = peak_bytes()
    nodes = len(grid.contexts)
    print(
        json.dumps(
            {
                "needed": 4 * CLIENTS * DIMENSION,
                "taken": ended - before,
                "written": peak_bytes() - ended,
                "nodes": nodes,
            }
        )
    )


if __name__ == "__main__":
    main()
