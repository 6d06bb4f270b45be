"""A parameter that is one number keeps its shape () in every method, on both paths."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from fedstrategies import EF21, CohortGrid, Compressed, CompressionMod, TopK, client_app
from fedstrategies.efbv import EFBVClient
from fedstrategies.fedp3 import FedP3, FedP3Client
from fedstrategies.flower.records import tensor_of
from fedstrategies.objectives import TorchObjective
from fedstrategies.pruning import layer_groups

CLIENTS = 3


class Net(nn.Module):
    """Two layers, and the scale of what they say."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(x))) * self.scale  # type: ignore[no-any-return]


def require_loadable(arrays: ArrayRecord) -> None:
    assert arrays["scale"].shape == ()
    assert arrays["scale"].numpy().shape == ()
    assert arrays["scale"].numpy() != 1.0
    Net().load_state_dict(arrays.to_torch_state_dict(), strict=True)


@pytest.mark.parametrize("fast", ["never", "require"])
@pytest.mark.parametrize("method", ["ef21", "fedp3"])
def test_methods_of_ours(method: str, fast: Literal["never", "require"]) -> None:
    module, draw = Net(), torch.Generator().manual_seed(1)
    objectives = [
        TorchObjective(
            module=module,
            loss=nn.CrossEntropyLoss(),
            data=(torch.randn(10, 4, generator=draw), torch.arange(10) % 3),
        )
        for _ in range(CLIENTS)
    ]
    groups = layer_groups(module)
    named = objectives[0].initial_arrays()
    start = ArrayRecord({name: Array(value.numpy()) for name, value in named.items()})

    def client(context: Context) -> Any:
        objective = objectives[int(context.node_config["partition-id"])]
        if method == "fedp3":
            return FedP3Client(context, objective=objective, groups=groups)
        return EFBVClient(context, objective=objective)

    strategy: Any = (
        FedP3(groups=groups, stepsize=0.1)
        if method == "fedp3"
        else EF21(compressor=TopK(k=60), stepsize=0.1)
    )
    grid = CohortGrid(client_app(client), num_clients=CLIENTS, fast=fast)
    require_loadable(strategy.start(grid, start, num_rounds=2).arrays)


def test_compressed_updates() -> None:
    app = ClientApp(mods=[CompressionMod(TopK(k=60))])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        state = {name: value + 0.1 for name, value in record.to_torch_state_dict().items()}
        content = RecordDict(
            {"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": 10})}
        )
        return Message(content, reply_to=message)

    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    grid = CohortGrid(app, num_clients=CLIENTS, serialize=True)
    require_loadable(strategy.start(grid, ArrayRecord(Net().state_dict()), num_rounds=2).arrays)
    assert strategy.failures == ()


def test_other_orders_are_made_contiguous() -> None:
    turned = torch.arange(6.0).reshape(2, 3).T.numpy()
    assert torch.equal(tensor_of(Array(turned)), torch.arange(6.0).reshape(2, 3).T)
    assert tensor_of(Array(turned)).is_contiguous()
