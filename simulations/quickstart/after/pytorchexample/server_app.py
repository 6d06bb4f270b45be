"""What the server does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedstrategies import Compressed
from pytorchexample.task import Net, load_images
from pytorchexample.task import test as test_fn

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train by FedAvg, test after every round, and write the curve down."""
    options = context.run_config
    torch.manual_seed(options["seed"])
    random.seed(options["seed"])
    data = load_images(options["images"])

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        net = Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = test_fn(net, data["test_images"], data["test_labels"])
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    strategy = FedAvg(fraction_train=options["fraction-train"], fraction_evaluate=0.0)
    strategy = Compressed(strategy, seed=options["seed"])
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=options["num-server-rounds"],
        evaluate_fn=evaluate,
    )
    if options["output"]:
        curve = [dict(metrics) for metrics in result.evaluate_metrics_serverapp.values()]
        Path(options["output"]).write_text(json.dumps(curve), encoding="utf-8")
