"""Our strategies and clients under Flower's older server loop: the same bits as with messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.clientapp import ClientApp
from flwr.common import EvaluateRes, FitRes, Parameters, ndarrays_to_parameters
from flwr.server import History, Server, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg

from fedstrategies import EFBV, CohortGrid, FedP3, TopK, as_legacy, legacy_client
from fedstrategies.fedp3 import parse_layers
from fedstrategies.flower import AllClientsFailed, BaseClient, BaseStrategy
from fedstrategies.flower.legacy_nodes import LegacyNodes
from fedstrategies.flower.legacy_translation import parameters_of, record_of
from fedstrategies.pruning import GlobalPruning
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import Scafflix, ScafflixClient
from tests.fedp3.setting import Setting as LayeredSetting
from tests.flower.conftest import CLIENTS, Setting


class LockedGrid(CohortGrid):
    """The older loop sends every message from a thread of its own; this process has one pool."""

    lock = threading.Lock()

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        with self.lock:
            return super().send_and_receive(messages, timeout=timeout)


def legacy_run(
    strategy: BaseStrategy,
    client: Callable[[Context], BaseClient],
    start: ArrayRecord,
    rounds: int,
    **options: Any,
) -> tuple[History, LockedGrid]:
    """Upstream's `Server` over upstream's proxies and legacy client handler."""
    app = ClientApp(client_fn=legacy_client(client))
    grid = LockedGrid(app, num_clients=CLIENTS, fast="never")
    manager = SimpleClientManager()
    for node in reversed(list(grid.get_node_ids())):
        manager.register(GridClientProxy(node_id=node, grid=grid, run_id=1))
    server = Server(client_manager=manager, strategy=as_legacy(strategy, start, **options))
    history, _ = server.fit(num_rounds=rounds, timeout=None)
    return history, grid


def test_ef_bv_has_the_bits_bytes_and_metrics_of_the_message_path(setting: Setting) -> None:
    def strategy() -> EFBV:
        return EFBV(
            compressor=TopK(k=3),
            smoothness=setting.smoothness,
            sampling=NiceSampling(cohort_size=5),
        )

    def loss(round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"loss": float((arrays["weight"].numpy() ** 2).sum()), "round": round})

    by_message, legacy = strategy(), strategy()
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    result = by_message.start(grid, setting.start, num_rounds=8, evaluate_fn=loss)
    history, nodes = legacy_run(legacy, setting.client, setting.start, 8, evaluate_fn=loss)

    assert torch.equal(legacy.x, by_message.x)
    assert torch.equal(legacy.h, by_message.h)
    assert legacy.memory is not None
    assert by_message.memory is not None
    assert torch.equal(legacy.memory["h"], by_message.memory["h"])
    assert legacy.bytes == by_message.bytes
    assert legacy.failures == ()
    for ours, theirs in zip(grid.contexts.values(), nodes.contexts.values(), strict=True):
        assert ours.state["fedstrategies.memory"] == theirs.state["fedstrategies.memory"]
    trained = dict(history.metrics_distributed_fit["loss"])
    assert trained == {t: m["loss"] for t, m in result.train_metrics_clientapp.items()}
    assert dict(history.losses_distributed) == {
        t: m["loss"] for t, m in result.evaluate_metrics_clientapp.items()
    }
    assert dict(history.losses_centralized) == {
        t: m["loss"] for t, m in result.evaluate_metrics_serverapp.items()
    }


def test_fedp3_whose_messages_differ_from_client_to_client_has_the_same_bits() -> None:
    setting = LayeredSetting(batch_size=4)

    def strategy() -> FedP3:
        return FedP3(
            groups=setting.groups,
            stepsize=0.1,
            local_steps=2,
            layers=parse_layers("opu2"),
            pruning=GlobalPruning(keep=0.6),
            fraction_evaluate=0.0,
        )

    by_message, legacy = strategy(), strategy()
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    by_message.start(grid, setting.start, num_rounds=4)
    history, _ = legacy_run(legacy, setting.client, setting.start, 4)
    assert torch.equal(legacy.x, by_message.x)
    assert not torch.equal(legacy.x, setting.x)
    assert legacy.bytes == by_message.bytes
    assert history.losses_distributed == []


def test_settlements_travel_where_part_of_the_clients_is_asked(setting: Setting) -> None:
    def strategy() -> Scafflix:
        return Scafflix(
            alpha=1.0,
            stepsize=0.05,
            p=0.5,
            sampling=NiceSampling(cohort_size=3),
            fraction_evaluate=0.0,
        )

    def client(context: Context) -> ScafflixClient:
        index = int(context.node_config["partition-id"])
        return ScafflixClient(context, objective=setting.objectives[index])

    from fedstrategies import client_app

    by_message, legacy = strategy(), strategy()
    by_message.start(
        CohortGrid(client_app(client), num_clients=CLIENTS, fast="never"), setting.start, 6
    )
    legacy_run(legacy, client, setting.start, 6)
    assert torch.equal(legacy.x, by_message.x)
    assert legacy.bytes == by_message.bytes


def test_one_client_that_raises_is_silent_and_all_of_them_end_the_run(setting: Setting) -> None:
    broken = {3}

    def client(context: Context) -> BaseClient:
        made = setting.client(context)
        if int(context.node_config["partition-id"]) in broken:

            def fit(*arguments: object) -> Any:
                raise RuntimeError("its disk is full")

            made.fit = fit  # type: ignore[method-assign]
        return made

    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness, fraction_evaluate=0.0)
    legacy_run(strategy, client, setting.start, 3)
    assert strategy.round == 3
    assert [line for line in strategy.failures if line.startswith("partition 3")]
    assert len(strategy.failures) == 1
    broken.update(range(CLIENTS))
    with pytest.raises(AllClientsFailed, match="disk is full"):
        legacy_run(
            EFBV(compressor=TopK(k=3), smoothness=setting.smoothness), client, setting.start, 3
        )


def one_round(
    setting: Setting, lie: Callable[[FitRes], FitRes], lie_of_loss: Callable[[EvaluateRes], object]
) -> tuple[EFBV, Any, float | None]:
    """A round in which the third client's answers are changed: its strategy, metrics, loss."""
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    grid = CohortGrid(
        ClientApp(client_fn=legacy_client(setting.client)), num_clients=CLIENTS, fast="never"
    )
    manager = SimpleClientManager()
    for node in grid.get_node_ids():
        manager.register(GridClientProxy(node_id=node, grid=grid, run_id=1))
    legacy = as_legacy(strategy, setting.start)
    asked = legacy.configure_fit(1, parameters_of(setting.start), manager)
    results = [(proxy, proxy.fit(ins, timeout=None, group_id=1)) for proxy, ins in asked]
    results[2] = (results[2][0], lie(results[2][1]))
    parameters, metrics = legacy.aggregate_fit(1, results, [])
    assert parameters is not None
    evaluated = [
        (proxy, proxy.evaluate(ins, timeout=None, group_id=1))
        for proxy, ins in legacy.configure_evaluate(1, parameters, manager)
    ]
    lie_of_loss(evaluated[0][1])
    loss, _ = legacy.aggregate_evaluate(1, evaluated, [])
    return strategy, metrics, loss


def changed(**fields: Any) -> Callable[[Any], Any]:
    def change(result: Any) -> Any:
        for name, value in fields.items():
            setattr(result, name, value)
        return result

    return change


def tensor(data: bytes) -> Callable[[FitRes], FitRes]:
    return changed(parameters=Parameters(tensors=[data], tensor_type="numpy.ndarray"))


def cut(result: FitRes) -> FitRes:
    (data,) = result.parameters.tensors
    return tensor(data[:-1])(result)


def huge(result: FitRes) -> FitRes:
    head = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    return tensor((head % 2**42).ljust(127) + b"\n" + bytes(12))(result)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (tensor(b"garbage"), "no array in numpy's format"),
        (tensor(b"\x93NUMPY\x01\x00"), "8 came in all"),
        (tensor(b""), "no array in numpy's format"),
        (cut, "is declared"),
        (huge, "4398046511104 bytes is declared, 12 came"),
        (changed(parameters=ndarrays_to_parameters([np.ones(5)])), "an array of uint8, float64"),
        (changed(parameters=ndarrays_to_parameters([np.ones(1, np.uint8)] * 3)), "one blob"),
        (changed(num_examples="x"), "malformed"),
        (changed(metrics={}), "no fedstrategies control fields"),
    ],
)
def test_a_forged_answer_is_its_client_s_failure_and_the_others_count(
    setting: Setting, lie: Any, reason: str
) -> None:
    strategy, metrics, loss = one_round(setting, lie, lambda result: None)
    (line,) = strategy.failures
    assert line.startswith("partition 2 ")
    assert reason in line
    assert strategy.round == 1
    assert metrics["loss"] > 0
    assert loss is not None


def test_metrics_that_are_no_numbers_are_left_out_and_no_loss_ends_the_run(
    setting: Setting,
) -> None:
    def more(result: FitRes) -> FitRes:
        return changed(metrics={**result.metrics, "good": True, "name": "x"})(result)

    _, metrics, expected = one_round(setting, lambda result: result, lambda result: None)
    for lie_of_loss in (
        changed(metrics={"good": True}),
        changed(loss="x"),
        changed(num_examples="x"),
        changed(loss=float("inf")),
        changed(loss=10**400),
    ):
        strategy, told, loss = one_round(setting, more, lie_of_loss)
        assert strategy.failures == ()
        assert told == metrics
        assert loss is not None
        assert loss != expected


def test_what_it_cannot_translate_is_refused_with_the_reason(setting: Setting) -> None:
    with pytest.raises(ValueError, match=r"FedAvg; Flower's own have counterparts"):
        as_legacy(FlowersFedAvg(), setting.start)  # type: ignore[arg-type]
    strategy = EFBV(compressor=TopK(k=3), smoothness=setting.smoothness)
    listed = ConfigRecord({"schedule": [0.1, 0.01]})
    with pytest.raises(ValueError, match="'schedule' is a list"):
        legacy_run(strategy, setting.client, setting.start, 1, train_config=listed)
    legacy = as_legacy(strategy, setting.start, evaluate_fn=lambda t, a: MetricRecord({"f1": 1.0}))
    with pytest.raises(ValueError, match="reports no 'loss'"):
        legacy.evaluate(0, parameters_of(setting.start))
    with pytest.raises(ValueError, match="1 arrays came, the model has 2"):
        record_of(parameters_of(setting.start), ["weight", "bias"])


def test_proxies_with_ids_that_are_no_numbers_have_nodes_all_the_same() -> None:
    class Proxy:
        def __init__(self, cid: str) -> None:
            self.cid = cid

    nodes = LegacyNodes()
    proxies = {cid: Proxy(cid) for cid in ("a", "b", "7", "c")}
    nodes.meet(proxies)  # type: ignore[arg-type]
    assert len(set(nodes.get_node_ids())) == 4
    assert all(nodes.proxy(nodes.id(p)) is p for p in proxies.values())  # type: ignore[arg-type]
    nodes.meet({"b": proxies["b"]})  # type: ignore[dict-item]
    assert list(nodes.get_node_ids()) == [nodes.id(proxies["b"])]  # type: ignore[arg-type]
