"""Clients of `Compressed` that send anything; models and nodes that it has to say no to."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Result,
    Strategy,
)

from fedstrategies import CohortGrid, Compressed, CompressionMod, TopK
from fedstrategies.flower import AllClientsFailed

CLIENTS, D, HOSTILE = 4, 12, 1
STATISTICS = "norm.running_mean"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def start(dtype: Any = np.float64) -> ArrayRecord:
    return ArrayRecord(
        {
            "weight": Array(np.zeros(D, dtype=dtype)),
            STATISTICS: Array(np.zeros(3, dtype=np.float32)),
            "norm.num_batches_tracked": Array(np.asarray(0)),
        }
    )


def app(tamper: Callable[[RecordDict], object] = lambda content: None, who: int = HOSTILE) -> Any:
    """Clients that train, one of which changes what leaves its node."""

    def last(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if context.node_config["partition-id"] == who and reply.has_content():
            tamper(reply.content)
        return reply  # type: ignore[no-any-return]

    made = ClientApp(mods=[last, CompressionMod(TopK(k=4))])

    @made.train()
    def train(message: Message, context: Context) -> Message:
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        moved = {name: Array(np.asarray(array.numpy() + 1)) for name, array in record.items()}
        metrics = MetricRecord({"num-examples": 10, "loss": 1.0, "each": [1.0, 2.0]})
        content = RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})
        return Message(content, reply_to=message)

    return made


def with_data(data: bytes) -> Callable[[RecordDict], None]:
    """The declared type and shape stay as they were; the bytes are others."""

    def tamper(content: RecordDict) -> None:
        record = content["arrays"]
        assert isinstance(record, ArrayRecord)
        there = record[STATISTICS]
        record[STATISTICS] = Array(
            dtype=there.dtype, shape=tuple(there.shape), stype=there.stype, data=data
        )

    return tamper


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def huge() -> bytes:
    return npy(np.zeros(3, np.float32)).replace(b"(3,)", b"(8589934592,)").replace(b" " * 9, b"", 1)


def metrics(**told: Any) -> Callable[[RecordDict], None]:
    def tamper(content: RecordDict) -> None:
        content["metrics"] = MetricRecord({"loss": 1.0, "each": [1.0, 2.0], **told})

    return tamper


def renamed(content: RecordDict) -> None:
    content["mine"] = content.pop("arrays")


@cache
def without_the_hostile_one() -> Result:
    def silence(content: RecordDict) -> None:
        raise ValueError("nothing to say")

    strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    return strategy.start(CohortGrid(app(silence), num_clients=CLIENTS), start(), 2)


TAMPERED: dict[str, tuple[Callable[[RecordDict], object], str]] = {
    "garbage": (with_data(b"garbage"), "no array in numpy's format"),
    "shape": (with_data(npy(np.zeros((5, 5)))), r"float64 \(5, 5\), and not as it says"),
    "type": (with_data(npy(np.zeros(3))), "float64"),
    "text": (with_data(npy(np.zeros(3, dtype="<U4"))), "no array of numbers"),
    "huge": (with_data(huge()), "34359738368 bytes is declared"),
    "cut": (with_data(npy(np.zeros(3, dtype=np.float32))[:-1]), "11 came"),
    "nan": (with_data(npy(np.full(3, np.nan, dtype=np.float32))), "not finite"),
    "no metrics": (lambda content: content.pop("metrics"), "0 MetricRecords"),
    "two metrics": (lambda content: content.update({"m": MetricRecord()}), "2 MetricRecords"),
    "no weight": (metrics(), "no number 'num-examples'"),
    "weights": (metrics(**{"num-examples": [1, 2]}), "no number 'num-examples'"),
    "negative": (metrics(**{"num-examples": -20}), "= -20 is no weight"),
    "not a number": (metrics(**{"num-examples": float("nan")}), "= nan is no weight"),
    "beyond floats": (metrics(**{"num-examples": 10**400}), "is no weight"),
    "other record": (renamed, "unlike most replies': arrays mine"),
    "other metrics": (metrics(**{"num-examples": 1, "more": 1.0}), "metric metrics/more"),
    "other length": (metrics(**{"num-examples": 1, "each": [1.0]}), "each of 1"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_one_client_sends_is_its_failure_and_changes_nothing_for_the_others(case: str) -> None:
    tamper, reason = TAMPERED[case]
    hostile = Compressed(FedAvg(fraction_evaluate=0.0))
    found = hostile.start(CohortGrid(app(tamper), num_clients=CLIENTS), start(), 2)
    (line,) = hostile.failures
    assert line.startswith("node ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(line)
    assert len(hostile.memories) == CLIENTS - 1
    expected = without_the_hostile_one()
    assert found.arrays == expected.arrays
    assert found.train_metrics_clientapp == expected.train_metrics_clientapp


def test_a_model_that_all_replies_weigh_nothing_is_not_divided_by_zero() -> None:
    nothing = metrics(**{"num-examples": 0})
    one = Compressed(FedAvg(fraction_evaluate=0.0))
    one.start(CohortGrid(app(nothing), num_clients=CLIENTS), start(), 1)
    assert one.failures == ()
    with pytest.raises(AllClientsFailed, match="'num-examples' is 0, in all replies"):
        Compressed(FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)).start(
            CohortGrid(app(nothing, who=0), num_clients=1), start(), 1
        )


def test_strategies_of_other_kinds_are_asked_nothing_and_wrapped_ones_all() -> None:
    class Lenient(Strategy):
        """Looks at the arrays alone."""

        def __init__(self) -> None:
            self.inner = FedAvg(fraction_evaluate=0.0)

        def configure_train(self, *arguments: Any) -> Any:
            return self.inner.configure_train(*arguments)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            (first, *_) = replies
            return next(iter(first.content.array_records.values())), None

        def configure_evaluate(self, *arguments: Any) -> Any:
            return []

        def aggregate_evaluate(self, *arguments: Any) -> Any:
            return None

        def summary(self) -> None: ...

    strategy = Compressed(Lenient())
    strategy.start(CohortGrid(app(renamed), num_clients=CLIENTS), start(), 1)
    assert strategy.failures == ()
    private = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_evaluate=0.0), 0.0, 1.0, CLIENTS - 1
    )
    wrapped = Compressed(private)
    wrapped.outermost = True
    grid = CohortGrid(app(metrics()), num_clients=CLIENTS)
    requests = wrapped.configure_train(1, start(), ConfigRecord(), grid)
    wrapped._attempt.collect(grid.send_and_receive(requests))  # type: ignore[union-attr]
    assert len(wrapped._attempt.failures) == 1  # type: ignore[union-attr]


# -------------------------------------------------------------------- models


def test_half_precision_is_refused_where_the_model_is_taken_up() -> None:
    grid = CohortGrid(app(), num_clients=CLIENTS)
    with pytest.raises(ValueError, match=r"model is in torch.float16.*model.float\(\)"):
        Compressed(FedAvg()).start(grid, start(np.float16), 1)


def test_a_model_without_a_number_is_refused() -> None:
    empty = ArrayRecord({"weight": Array(np.zeros((0, 3)))})
    with pytest.raises(ValueError, match="nothing to train: weight have no numbers"):
        Compressed(FedAvg()).start(CohortGrid(app(), num_clients=CLIENTS), empty, 1)


# -------------------------------------------------------------------- nodes that go


class Partly(CohortGrid):
    """Of which some nodes are not connected."""

    absent: frozenset[int] = frozenset()

    def get_node_ids(self) -> Any:
        return [node for node in super().get_node_ids() if node not in self.absent]


def test_memories_of_nodes_that_are_gone_are_given_up_and_begin_anew_if_they_come_back() -> None:
    grid = Partly(app(), num_clients=CLIENTS, fast="never")
    strategy = Compressed(FedAvg(fraction_evaluate=0.0), forget_after=2)
    strategy.outermost = True
    stayed, gone, *_ = grid.get_node_ids()
    arrays: ArrayRecord | None = start()
    held = []
    for t, connected in enumerate("yynynny", start=1):
        grid.absent = frozenset() if connected == "y" else frozenset({gone})
        assert arrays is not None
        requests = list(strategy.configure_train(t, arrays, ConfigRecord(), grid))
        held.append(gone in strategy.memories)
        arrays, _ = strategy.aggregate_train(t, grid.send_and_receive(requests))
        assert strategy.failures == ()
    assert held == [False, True, True, True, True, False, False]
    # What its node remembers, and its upload of round 4, are not continued: four entries a round.
    assert int(torch.count_nonzero(strategy.memories[gone])) == 4
    assert int(torch.count_nonzero(strategy.memories[stayed])) == D
    with pytest.raises(ValueError, match="forget_after = 0"):
        Compressed(FedAvg(), forget_after=0)
