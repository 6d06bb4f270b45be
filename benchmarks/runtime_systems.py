"""What `benchmarks.flower_runtime` compares: clients and servers, importable by Ray's actors.

One task for all: 100 clients of 50 random images of 3 x 32 x 32, cohorts of 20. The plain side is
what Flower's documentation shows: FedAvg over messages, a state_dict each way, data and module
kept by the process. A client of it passes over its 50 images once, in one step or in five of 10.
The clients of this suite take the gradient over the same 50 images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, Context, Message, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

    from fedstrategies.efbv import EFBVClient
    from fedstrategies.flower import BaseStrategy, RoundRecord

__all__ = ["CLIENTS", "COHORT", "MODELS", "SYSTEMS", "dimension", "plain", "suite"]

CLIENTS, COHORT, IMAGES, STEPSIZE = 100, 20, 50, 0.1
KEPT = 0.01
"""Share of the coordinates that a compressed upload keeps."""

MODELS = ("linear", "cnn")
SYSTEMS = ("fedavg-1", "fedavg-5", "gd", "rand-k", "efbv-dir", "efbv-context")


def network(model: str) -> nn.Module:
    """30,730 or 1,626,442 parameters, the same on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        return nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 14 * 14, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )


def dimension(model: str) -> int:
    """d."""
    return sum(parameter.numel() for parameter in network(model).parameters())


@lru_cache(maxsize=CLIENTS)
def images(client: int) -> tuple[Tensor, Tensor]:
    """The rows of a client; a process draws them once."""
    draw = torch.Generator().manual_seed(client)
    features = torch.randn((IMAGES, 3, 32, 32), generator=draw)
    return features, torch.randint(10, (IMAGES,), generator=draw)


@lru_cache(maxsize=1)
def shared_network(model: str) -> nn.Module:
    """One a process."""
    return network(model)


def last_rounds(seconds: list[float], warm_up: int) -> list[float]:
    """Durations between the ends of rounds, without the first ``warm_up`` rounds."""
    return [after - before for before, after in pairwise(seconds)][warm_up:]


# ---------------------------------------------------------------- plain Flower


def plain_train(model: str, steps: int, message: Message, context: Context) -> Message:
    """A client of plain Flower: one pass over its images in ``steps`` steps."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    module = shared_network(model)
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    features, targets = images(int(context.node_config["partition-id"]))
    optimizer = torch.optim.SGD(module.parameters(), lr=STEPSIZE)
    loss = torch.zeros(())
    for rows in torch.arange(IMAGES).chunk(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(features[rows]), targets[rows])
        loss.backward()
        optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"loss": float(loss.detach()), "num-examples": IMAGES}),
        }
    )
    return Message(content, reply_to=message)


def plain(model: str, steps: int) -> tuple[ClientApp, Callable[[Grid, int], list[float]]]:
    """Flower's own FedAvg, and the ends of its rounds."""
    from flwr.app import ArrayRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp.strategy import FedAvg

    app = ClientApp()
    app.train()(partial(plain_train, model, steps))
    ends: list[float] = []

    def look(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        ends.append(time.perf_counter())
        return None

    def serve(grid: Grid, rounds: int) -> list[float]:
        strategy = FedAvg(
            fraction_train=COHORT / CLIENTS,
            fraction_evaluate=0.0,
            min_train_nodes=COHORT,
            min_available_nodes=CLIENTS,
        )
        start = ArrayRecord(network(model).state_dict())
        strategy.start(grid, start, num_rounds=rounds, evaluate_fn=look)
        return ends

    return app, serve


# ---------------------------------------------------------------- this suite


class Ends:
    """The ends of rounds."""

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


@lru_cache(maxsize=CLIENTS)
def objective(model: str, client: int) -> Any:
    """f_i on the client's images; a process builds it once."""
    from fedstrategies import TorchObjective

    return TorchObjective(
        module=shared_network(model), loss=nn.CrossEntropyLoss(), data=images(client)
    )


def suite_client(model: str, context: Context) -> EFBVClient:
    """A client of gradient descent and of EF-BV."""
    from fedstrategies.efbv import EFBVClient

    client = int(context.node_config["partition-id"])
    return EFBVClient(context, objective=objective(model, client))


def stateless(kept: int | None, settings: dict[str, Any]) -> BaseStrategy:
    """Distributed compressed gradient descent: `GradientDescent`, but for cohorts and rand-k.

    No solver (its error stays), but what it costs is that of any method without client memory.
    """
    from fedstrategies.compressors import Compressor, Constants, RandK
    from fedstrategies.efbv import GradientDescent, theory
    from fedstrategies.efbv.constants import Theory
    from fedstrategies.objectives import Smoothness

    class CompressedGradientDescent(GradientDescent):
        def __init__(self, compressor: Compressor | None, **settings: Any) -> None:
            super().__init__(**settings)
            self.compressor = self.compressor if compressor is None else compressor

        def analyse(self, operator: Constants, smoothness: Smoothness) -> Theory:
            return theory.gradient_descent(operator, smoothness, clients=self.clients)

    return CompressedGradientDescent(None if kept is None else RandK(k=kept), **settings)


def suite(
    model: str, system: str, directory: str
) -> tuple[ClientApp, Callable[[Grid, int], list[float]]]:
    """A method of this suite, and the ends of its rounds."""
    from flwr.app import ArrayRecord

    from fedstrategies import NiceSampling, client_app
    from fedstrategies.compressors import TopK
    from fedstrategies.efbv import EFBV
    from fedstrategies.flower import DirectoryStore

    store = DirectoryStore(directory) if system == "efbv-dir" else None
    app = client_app(partial(suite_client, model), store=store)
    kept = int(KEPT * dimension(model))
    shared: dict[str, Any] = {
        "stepsize": STEPSIZE,
        "sampling": NiceSampling(cohort_size=COHORT),
        "num_clients": CLIENTS,
        "fraction_evaluate": 0.0,
    }

    def serve(grid: Grid, rounds: int) -> list[float]:
        strategy: BaseStrategy
        if system in ("gd", "rand-k"):
            strategy = stateless(kept if system == "rand-k" else None, shared)
        else:
            strategy = EFBV(compressor=TopK(k=kept), **shared)
        clock = Ends()
        start = ArrayRecord(network(model).state_dict())
        strategy.start(grid, start, num_rounds=rounds, callbacks=[clock])
        return clock.seconds

    return app, serve
