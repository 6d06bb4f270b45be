"""The shell as users meet it: their own ClientApp, NumPyClient, torch modules, wrong settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedstrategies.compressors import QSGD, Identity, TopK
from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import AllClientsFailed, client_app
from fedstrategies.flower.metrics import aggregate_metrics, weighted_mean
from fedstrategies.flower.nodes import NodeDirectory
from fedstrategies.objectives import Smoothness, TorchObjective
from fedstrategies.sampling import BlockSampling, NonuniformSampling, StratifiedSampling
from fedstrategies.scafflix import Scafflix
from fedstrategies.sppm import SPPM
from fedstrategies.wire import encode_vector
from tests.flower.conftest import CLIENTS, Setting


def test_train_and_evaluate_can_be_registered_on_an_own_client_app(setting: Setting) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return setting.client(context).train(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return setting.client(context).evaluate(message, context)

    own = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    result = own.start(CohortGrid(app, num_clients=CLIENTS), setting.start, num_rounds=4)
    ours = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    ours.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=4)
    assert torch.equal(own.x, ours.x)
    assert set(result.evaluate_metrics_clientapp) == {1, 2, 3, 4}


def test_upstreams_start_and_ours_agree(setting: Setting) -> None:
    def strategy() -> EFBV:
        return EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)

    ours, theirs = strategy(), strategy()
    mine = ours.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=5)
    upstream = Strategy.start(
        theirs, CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=5
    )
    assert torch.equal(ours.x, theirs.x)
    last = mine.train_metrics_clientapp[5]["loss"]
    assert last == pytest.approx(upstream.train_metrics_clientapp[5]["loss"], rel=1e-14)
    assert mine.evaluate_metrics_clientapp == upstream.evaluate_metrics_clientapp


def test_a_wrapper_may_change_the_model_between_rounds(setting: Setting) -> None:
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    arrays = setting.start
    for t in (1, 2):
        messages = strategy.configure_train(t, arrays, ConfigRecord(), grid)
        found, _ = strategy.aggregate_train(t, grid.send_and_receive(messages))
        assert found is not None
        arrays = ArrayRecord({"weight": _array(found["weight"].numpy() + 1.0)})
    before = strategy.x.clone()
    messages = strategy.configure_train(3, arrays, ConfigRecord(), grid)
    assert np.allclose(strategy.x.numpy(), before.numpy() + 1.0)


def _array(values: np.ndarray) -> Any:
    from flwr.app import Array

    return Array(values)


def test_it_is_a_numpy_client_for_flowers_older_api(setting: Setting) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    (message, *_) = strategy.configure_train(1, setting.start, ConfigRecord(), grid)
    context = next(iter(grid.contexts.values()))
    client = setting.client(context)
    assert isinstance(client, NumPyClient)
    assert client.get_properties({}) == {"partition-id": 0, "num-partitions": CLIENTS}
    record = message.content["arrays"]
    blob = np.frombuffer(record["0"].data, dtype=np.uint8)
    config = dict(message.content["config"])
    arrays, examples, metrics = client.fit([blob], config)
    assert [type(array) for array in arrays] == [np.ndarray]
    assert type(examples) is int
    assert all(type(value) in (float, bytes) for value in metrics.values())
    loss, _, measured = client.evaluate([blob], {})
    assert type(loss) is float
    assert set(measured) == {"accuracy"}
    reply = setting.client(context).train(message, context)
    assert reply.content.array_records["arrays"]["0"].data == arrays[0].tobytes()


def test_a_foreign_message_is_answered_with_the_reason(setting: Setting) -> None:
    context = Context(
        run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config={}
    )
    content = RecordDict({"arrays": ArrayRecord([np.zeros(3)]), "config": ConfigRecord()})
    grid = CohortGrid(setting.app, num_clients=1)
    assert grid is not None
    message = Message(content, dst_node_id=1, message_type="train")
    with pytest.raises(ValueError, match="matching fedstrategies strategy"):
        setting.client(context).train(message, context)


@pytest.mark.parametrize(("fast", "kind"), [("require", ValueError), ("never", AllClientsFailed)])
def test_a_model_of_another_size_is_named(
    setting: Setting, fast: Any, kind: type[Exception]
) -> None:
    strategy = EF21(compressor=TopK(k=3), smoothness=setting.smoothness)
    start = ArrayRecord({"weight": _array(np.zeros(5))})
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast)
    with pytest.raises(kind, match="12"):
        strategy.start(grid, start, num_rounds=1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.norm(self.hidden(inputs))))
        return out


@pytest.mark.parametrize("trainable", ["*", "head.*"])
@pytest.mark.parametrize("fast", ["require", "never"])
def test_torch_modules_with_buffers_and_adapters(trainable: str, fast: Any) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    data = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(3)]
    objectives = [
        TorchObjective(module=net, loss=nn.functional.cross_entropy, data=part, trainable=trainable)
        for part in data
    ]
    app = client_app(
        lambda context: EFBVClient(
            context, objective=objectives[int(context.node_config["partition-id"])]
        )
    )
    strategy = EFBV(compressor=QSGD(levels=8), stepsize=0.2, trainable=trainable)
    initial = ArrayRecord(net.state_dict())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    grid = CohortGrid(app, num_clients=3, fast=fast)
    result = strategy.start(grid, initial, num_rounds=25)
    final = result.arrays.to_torch_state_dict()
    fresh = Net()
    fresh.load_state_dict(final, strict=True)
    assert {name: value.dtype for name, value in final.items()} == {
        name: value.dtype for name, value in before.items()
    }
    moved = {name for name in final if not torch.equal(final[name], before[name])}
    assert moved == (
        {"head.weight", "head.bias"} if trainable == "head.*" else set(dict(net.named_parameters()))
    )
    losses = [metrics["loss"] for metrics in result.train_metrics_clientapp.values()]
    assert losses[-1] < losses[0]  # type: ignore[operator]
    assert strategy.x.dtype == torch.float32
    assert strategy.memory is not None
    drift = (strategy.h - strategy.memory["h"].mean(dim=0)).norm() / strategy.h.norm()
    assert drift < 1e-5


def test_upstreams_constructor_names_are_honoured(setting: Setting) -> None:
    strategy = EFBV(
        compressor=TopK(k=3),
        smoothness=setting.smoothness,
        fraction_train=0.5,
        fraction_evaluate=0.25,
        min_evaluate_nodes=1,
        min_train_nodes=3,
        min_available_nodes=4,
        arrayrecord_key="model",
        configrecord_key="settings",
        train_metrics_aggr_fn=lambda contents, key: MetricRecord({"replies": len(contents)}),
        evaluate_metrics_aggr_fn=lambda contents, key: MetricRecord({"asked": len(contents)}),
    )
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    result = strategy.start(grid, setting.start, num_rounds=2, train_config=ConfigRecord({"a": 1}))
    assert strategy.cohort_size == 4
    assert result.train_metrics_clientapp[1]["replies"] == 4
    assert result.evaluate_metrics_clientapp[1]["asked"] == 2
    messages = list(strategy.configure_train(3, result.arrays, ConfigRecord({"a": 1}), grid))
    assert set(messages[0].content) == {"model", "settings"}
    assert messages[0].content["settings"]["a"] == 1
    assert messages[0].content["settings"]["server-round"] == 3


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda s: EFBV(compressor=TopK(k=3)), "needs smoothness"),
        (lambda s: EFBV(compressor="top-k:k=3", smoothness=s), "no Compressor"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, prox="l1:0.1"), "no Prox"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, stepsize="fast"), "stepsize"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, stepsize=-1.0), "positive"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, fraction_train=0.0), "fraction_train"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, on_failure="pray"), "on_failure"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, shift_init="x"), "shift_init"),
        (lambda s: EF21(compressor=TopK(k=3), smoothness=s, lam=0.5), "EF21 fixes"),
        (lambda s: DIANA(compressor=TopK(k=3), smoothness=s, nu=0.5), "DIANA fixes"),
        (lambda s: GradientDescent(compressor=TopK(k=3), smoothness=s), "no compressor"),
    ],
)
def test_impossible_settings_are_refused_at_once(setting: Setting, make: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make(setting.smoothness)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda s: EFBV(compressor=TopK(k=13), smoothness=s), "13.*12"),
        (lambda s: DIANA(compressor=TopK(k=3), smoothness=s), "unbiased"),
        (lambda s: EFBV(compressor=TopK(k=3), smoothness=s, num_clients=9), "9 nodes"),
        (lambda s: GradientDescent(smoothness=s, fraction_train=0.5), "memory"),
    ],
)
def test_what_only_the_first_round_can_know_is_refused_there(
    setting: Setting, make: Any, reason: str
) -> None:
    strategy = make(setting.smoothness)
    with pytest.raises(ValueError, match=reason):
        strategy.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=1)


def test_smoothness_is_not_needed_with_a_step_of_ones_own(setting: Setting) -> None:
    strategy = EFBV(compressor=TopK(k=3), stepsize=0.01)
    strategy.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=1)
    known = EFBV(
        compressor=TopK(k=3),
        stepsize=0.01,
        smoothness=Smoothness(L=3.0, L_tilde=4.0, L_max=5.0, mu=0.1),
    )
    known.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, num_rounds=1)
    assert (strategy.theory.lam, strategy.theory.nu) == (known.theory.lam, known.theory.nu)
    assert strategy.gamma == 0.01


class Members:
    """A grid as far as the directory needs one."""

    def __init__(self, nodes: dict[int, int | None]) -> None:
        self.nodes = nodes

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)


def test_nodes_are_keyed_by_partition_and_may_be_replaced_but_not_added() -> None:
    grid: Any = Members({900: 4, 17: 2, 55: None})
    directory = NodeDirectory(lambda grid, nodes: {node: grid.nodes[node] for node in nodes})
    assert directory.wait(grid, 3) == 3
    # Partition ids 0 (given by rank), 2 and 4 become indices 0, 1, 2.
    assert directory.refresh(grid) == {0: 55, 1: 17, 2: 900}
    grid.nodes = {900: 4, 55: None, 1000: 2, 1001: 7}
    assert directory.refresh(grid) == {0: 55, 1: 1000, 2: 900}
    grid.nodes = {900: 4}
    assert directory.refresh(grid) == {2: 900}


def test_a_node_that_does_not_answer_is_waited_for_and_then_rarely_asked() -> None:
    grid: Any = Members({1: 0, 2: 1})
    asked: list[list[int]] = []

    def query(grid: Any, nodes: list[int]) -> dict[int, int | None]:
        asked.append(nodes)
        # Node 2 answers from the second time on, node 3 never.
        return {n: grid.nodes[n] for n in nodes if n == 1 or (n == 2 and len(asked) > 1)}

    directory = NodeDirectory(query)
    assert directory.wait(grid, 2) == 2
    assert asked == [[1, 2], [2]]
    grid.nodes[3] = 5
    for _ in range(40):
        assert directory.refresh(grid) == {0: 1, 1: 2}
    assert asked.count([3]) == 3


@pytest.mark.parametrize("fast", ["require", "never"])
def test_a_second_start_goes_on_from_the_arrays_it_is_given(setting: Setting, fast: Any) -> None:
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness, fraction_evaluate=0.0)
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast)
    strategy.start(grid, setting.start, num_rounds=3)
    h = strategy.h.clone()
    moved = ArrayRecord({"weight": _array(np.full(12, 5.0))})
    strategy.start(grid, moved, num_rounds=1)
    assert (strategy.x - 5.0).abs().max() < 1.0
    assert strategy.round == 4
    assert not torch.equal(strategy.h, h)


def test_evaluation_uses_the_first_reply_of_each_node_that_was_asked(setting: Setting) -> None:
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy.start(grid, setting.start, num_rounds=1)
    messages = list(strategy.configure_evaluate(1, strategy.arrays, ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    clean = list(strategy.configure_evaluate(1, strategy.arrays, ConfigRecord(), grid))
    expected = strategy.aggregate_evaluate(1, grid.send_and_receive(clean))
    stranger = Message(
        RecordDict({"metrics": MetricRecord({"num-examples": 10**6, "loss": 99.0, "accuracy": 0})}),
        reply_to=Message(RecordDict(), dst_node_id=4242, message_type="evaluate"),
    )
    list(strategy.configure_evaluate(1, strategy.arrays, ConfigRecord(), grid))
    assert strategy.aggregate_evaluate(1, [stranger, *replies, *replies]) == expected


def test_evaluation_messages_are_counted(setting: Setting) -> None:
    downlink = []
    for fraction in (0.0, 1.0):
        strategy = GradientDescent(smoothness=setting.smoothness, fraction_evaluate=fraction)
        grid = CohortGrid(setting.app, num_clients=CLIENTS)
        strategy.start(grid, setting.start, num_rounds=1)
        downlink.append(strategy.bytes.downlink)
    assert downlink[1] - downlink[0] == CLIENTS * len(encode_vector(strategy.x))


def test_one_odd_metrics_record_does_not_silence_the_others() -> None:
    def content(**values: Any) -> RecordDict:
        return RecordDict({"metrics": MetricRecord(values)})

    usual = [content(n=2, loss=1.0), content(n=2, loss=3.0)]
    odd = [
        content(n=1, loss=7.0, extra=1.0),
        content(loss=7.0),
        content(n=0, loss=7.0),
        content(n=1, loss=float("nan")),
        content(n=1, loss=10**400),
        content(n=1, loss=[7.0]),
        RecordDict(),
    ]
    found = aggregate_metrics([*odd, *usual], weighted_mean, "n")
    assert found == MetricRecord({"loss": 2.0})
    assert aggregate_metrics(odd[1:], weighted_mean, "n") is None


def test_laws_that_weight_clients_unevenly_are_for_methods_that_undo_it() -> None:
    for law in (
        BlockSampling(blocks=((0, 1), (2, 3))),
        NonuniformSampling.uniform(4),
        StratifiedSampling(strata=((0, 1), (2, 3))),
    ):
        for method in (EFBV, Scafflix):
            with pytest.raises(ValueError, match="is for full and nice sampling, not for"):
                method(compressor=Identity(), stepsize=0.1, sampling=law)
        assert SPPM(sampling=law).sampling is law
