"""What a node does."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedstrategies import CompressionMod, parse_compressor
from pytorchexample.task import Net, load_partition
from pytorchexample.task import test as test_fn
from pytorchexample.task import train as train_fn

app = ClientApp(mods=[CompressionMod(parse_compressor("top-k:fraction=0.05+natural"))])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came on this node's examples."""
    net, data = _prepared(message, context)
    partition, now = context.node_config["partition-id"], message.content["config"]["server-round"]
    loss = train_fn(
        net,
        data,
        epochs=context.run_config["local-epochs"],
        rate=context.run_config["learning-rate"],
        batch=context.run_config["batch-size"],
        seed=(context.run_config["seed"] * 1000 + now) * 1000 + partition,
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data[1])})
    arrays = ArrayRecord(net.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the model that came on them."""
    net, data = _prepared(message, context)
    loss, accuracy = test_fn(net, *data)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(data[1])}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def _prepared(message: Message, context: Context):
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    partition, partitions = (context.node_config[key] for key in ("partition-id", "num-partitions"))
    return net, load_partition(context.run_config["images"], partition, partitions)
