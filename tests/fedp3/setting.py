"""Eight clients with a small convolutional network on images that differ from client to client."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context
from torch import Tensor, nn

from fedstrategies.engines import CohortGrid
from fedstrategies.fedp3 import FedP3Client
from fedstrategies.flower import FedApp, client_app
from fedstrategies.objectives import TorchObjective
from fedstrategies.privacy import Privacy
from fedstrategies.pruning import LayerGroups, layer_groups

CLIENTS = 8
CLASSES = 3
SIZES = (10, 12, 14, 10, 20, 8, 16, 11)


def network() -> nn.Module:
    """Four groups: two convolutions, a hidden layer, the classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.ReLU(),
        nn.Linear(8, CLASSES),
    )


class Setting:
    def __init__(self, *, batch_size: int | None = None) -> None:
        self.module = network()
        draw = torch.Generator().manual_seed(1)
        self.objectives = []
        for size in SIZES:
            labels = torch.randint(0, CLASSES, (size,), generator=draw)
            images = torch.randn(size, 1, 6, 6, generator=draw) + labels.view(-1, 1, 1, 1)
            self.objectives.append(
                TorchObjective(
                    module=self.module,
                    loss=nn.CrossEntropyLoss(),
                    data=(images, labels),
                    batch_size=batch_size,
                )
            )
        self.groups: LayerGroups = layer_groups(self.module)
        self.seen: dict[int, list[int]] = {}

    @property
    def x(self) -> Tensor:
        return self.groups.layout.flatten(self.objectives[0].initial_arrays())

    @property
    def start(self) -> ArrayRecord:
        named = self.objectives[0].initial_arrays()
        return ArrayRecord({name: Array(value.numpy()) for name, value in named.items()})

    def client(self, context: Context) -> FedP3Client:
        partition = int(context.node_config["partition-id"])
        return FedP3Client(context, objective=self.objectives[partition], groups=self.groups)

    @property
    def app(self) -> FedApp:
        return client_app(self.client)


def grid_of(setting: Setting, privacy: Privacy | None, **options: Any) -> CohortGrid:
    """The clients, private or not, on a grid."""

    def client(context: Context) -> FedP3Client:
        partition = int(context.node_config["partition-id"])
        return FedP3Client(
            context, objective=setting.objectives[partition], groups=setting.groups, privacy=privacy
        )

    return CohortGrid(client_app(client), num_clients=CLIENTS, **options)
