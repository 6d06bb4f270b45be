"""A plain Flower client: what the tutorials show, with two favours.

Data and model stay in the actor between messages, and there is no data loader. A module of its
own, because actors import what they are not sent.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from benchmarks.simulation.task import EXAMPLES, STEPSIZE, Schedule, build_model, local_steps

__all__ = ["plain_app"]


def plain_app(name: str, table: str) -> ClientApp:
    """The ClientApp; what its functions hold travels with every task, so they hold two texts.

    Parameters
    ----------
    name : str
        The model.
    table : str
        File of the `Schedule`.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        model, optimizer = _trainer(name)
        arrays = message.content.array_records["arrays"]
        config = message.content.config_records["config"]
        model.load_state_dict(arrays.to_torch_state_dict(), strict=True)
        client = int(context.node_config["partition-id"])
        round = int(str(config["server-round"])) - 1
        local_steps(model, optimizer, _schedule(table).tensors(round, client))
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({"num-examples": EXAMPLES}),
            }
        )
        return Message(content, reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        return Message(RecordDict({"id": ConfigRecord({"partition": partition})}), reply_to=message)

    return app


@lru_cache(maxsize=1)
def _trainer(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model(name)
    return model, torch.optim.SGD(model.parameters(), lr=STEPSIZE)


@lru_cache(maxsize=1)
def _schedule(table: str) -> Schedule:
    return Schedule.load(table)
