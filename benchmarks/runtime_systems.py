"""What `benchmarks.flower_runtime` compares: clients and servers that Ray's actors can import.

The plain side is what Flower's documentation shows: `FedAvg` over messages, a state_dict each way.
Data and module stay in the actor, and there is no data loader.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from benchmarks.simulation.task import (
    CLIENTS,
    COHORT,
    EXAMPLES,
    STEPSIZE,
    build_model,
    client_data,
    local_steps,
)
from fedstrategies import NiceSampling, TorchObjective, client_app
from fedstrategies.compressors import Constants, Identity, RandK, TopK
from fedstrategies.efbv import EFBV, EFBVClient, GradientDescent, theory
from fedstrategies.efbv.constants import Theory
from fedstrategies.flower import BaseStrategy, DirectoryStore, RoundRecord
from fedstrategies.objectives import Objective, Smoothness

__all__ = ["KEPT", "Ends", "Run", "plain", "suite"]

KEPT = 0.01
"""Share of the coordinates in a compressed upload."""

Run = tuple[ClientApp, Callable[[Grid, int], list[float]]]
"""An app, and what the server does for a number of rounds: the times at which they ended."""


class Ends:
    """The start of the first round, and the end of each."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_start(self, x: Tensor) -> None:
        """The first round begins."""
        self.seconds.append(time.perf_counter())

    def on_round(self, record: RoundRecord) -> None:
        """A round is over."""
        self.seconds.append(time.perf_counter())

    def on_end(self) -> None:
        """Nothing more to see."""

    def look(self, server_round: int, arrays: ArrayRecord) -> None:
        """The same as Flower calls it, before the first round and after each."""
        self.seconds.append(time.perf_counter())


# ---------------------------------------------------------------- plain Flower


@lru_cache(maxsize=1)
def _trainer(model: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = build_model(model)
    return module, torch.optim.SGD(module.parameters(), lr=STEPSIZE)


def _train(model: str, steps: int, message: Message, context: Context) -> Message:
    """One pass over the client's images in ``steps`` steps; 0: none, the model goes back as is."""
    module, optimizer = _trainer(model)
    module.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    features, targets = client_data(int(context.node_config["partition-id"]))
    batches = torch.arange(EXAMPLES).chunk(steps) if steps else ()
    local_steps(module, optimizer, ((features[rows], targets[rows]) for rows in batches))
    content = RecordDict(
        {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"num-examples": EXAMPLES}),
        }
    )
    return Message(content, reply_to=message)


def plain(model: str, steps: int) -> Run:
    """Flower's own FedAvg."""
    app = ClientApp()
    app.train()(partial(_train, model, steps))

    def serve(grid: Grid, rounds: int) -> list[float]:
        strategy = FedAvg(
            fraction_train=COHORT / CLIENTS,
            fraction_evaluate=0.0,
            min_train_nodes=COHORT,
            min_available_nodes=CLIENTS,
        )
        ends = Ends()
        start = ArrayRecord(build_model(model).state_dict())
        strategy.start(grid, start, num_rounds=rounds, evaluate_fn=ends.look)
        return ends.seconds

    return app, serve


# ---------------------------------------------------------------- this suite


@lru_cache(maxsize=CLIENTS)
def _objective(model: str, client: int) -> Objective:
    return TorchObjective(
        module=_trainer(model)[0], loss=nn.CrossEntropyLoss(), data=client_data(client)
    )


def _client(model: str, context: Context) -> EFBVClient:
    client = int(context.node_config["partition-id"])
    return EFBVClient(context, objective=_objective(model, client))


class Stateless(GradientDescent):
    """`GradientDescent` for cohorts and with a compressor: clients remember nothing.

    It converges to a neighbourhood alone, which is why the suite has no such method; but a round
    of it is what a round of any method without client memory costs.
    """

    def __init__(self, *, compressor: RandK | Identity, **settings: Any) -> None:
        super().__init__(**settings)
        self.compressor = compressor

    def analyse(self, operator: Constants, smoothness: Smoothness) -> Theory:
        """As with all clients."""
        return theory.gradient_descent(operator, smoothness, clients=self.clients)


def suite(model: str, method: str, directory: Path | None) -> Run:
    """A method of this suite: ``gd``, ``rand-k`` or ``efbv``.

    Parameters
    ----------
    model, method : str
        Which.
    directory : Path or None
        Of the clients' state; None: it travels.
    """
    store = None if directory is None else DirectoryStore(directory)
    app = client_app(partial(_client, model), store=store)
    module = build_model(model)
    kept = int(KEPT * sum(parameter.numel() for parameter in module.parameters()))

    def strategy() -> BaseStrategy:
        settings: dict[str, Any] = {
            "stepsize": STEPSIZE,
            "sampling": NiceSampling(cohort_size=COHORT),
            "num_clients": CLIENTS,
            "fraction_evaluate": 0.0,
        }
        if method == "efbv":
            return EFBV(compressor=TopK(k=kept), **settings)
        compressor = RandK(k=kept) if method == "rand-k" else Identity()
        return Stateless(compressor=compressor, **settings)

    def serve(grid: Grid, rounds: int) -> list[float]:
        ends = Ends()
        start = ArrayRecord(module.state_dict())
        strategy().start(grid, start, num_rounds=rounds, callbacks=[ends])
        return ends.seconds

    return app, serve
