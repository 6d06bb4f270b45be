"""How the work is divided must not show in the answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedstrategies.compressors import Payload, parse_compressor
from fedstrategies.efbv.algorithm import ClientRule as EFBVRule
from fedstrategies.engines import CohortGrid
from fedstrategies.engines.execution import Execution, available_cores
from fedstrategies.engines.gathering import Gathering
from fedstrategies.fedp3 import Downlink, FedP3Rule, LocalTraining
from fedstrategies.memoryless import MemorylessRule, whole
from fedstrategies.objectives import (
    BatchedObjective,
    LogisticRegression,
    PersonalObjective,
    TorchObjective,
)
from fedstrategies.objectives.last_point import without_memory
from fedstrategies.pruning import OrderedDropout
from fedstrategies.random import Purpose, client_keys
from fedstrategies.scafflix.algorithm import ScafflixRule
from fedstrategies.scafflix.baseline_rules import FedAvgRule, FLIXRule
from fedstrategies.sppm.algorithm import GradientRule, LocalProxRule
from fedstrategies.threads import single_threaded
from tests.efbv.helpers import problem
from tests.fake_device import DEVICE, fake_device
from tests.fedp3.setting import CLIENTS
from tests.fedp3.setting import Setting as Network

IDS = torch.arange(CLIENTS)
KEYS = client_keys(0, 1, IDS, Purpose.CLIENT)
GAMMA = tuple(0.05 + 0.01 * i for i in range(CLIENTS))
ALPHA = (0.9, 0.2, 0.5, 1.0, 0.35, 0.7, 0.15, 0.6)
DIVISIONS = (
    (1, None, None),
    (1, 1, None),
    (1, 3, None),
    (2, None, None),
    (2, 1, None),
    (2, 1, True),
    (3, 2, True),
    (3, 2, False),
)
"""Workers, clients in a chunk, and whether the pool was faster (None: the clock decides)."""
COHORTS = {"everyone": IDS, "some": torch.tensor([0, 2, 3, 5, 7])}


def efbv(spec: str, *, uncompressed: bool = False) -> EFBVRule:
    compressor = parse_compressor(spec)
    return EFBVRule(compressor=compressor, memory_step=0.5, uncompressed=uncompressed)


def fedp3(network: Network, **training: Any) -> FedP3Rule:
    return FedP3Rule(
        downlink=Downlink(groups=network.groups, assigned=(True, False, True, True), keep=0.9),
        training=LocalTraining(stepsize=0.1, **training),
        local_steps=tuple(1 + i % 3 for i in range(CLIENTS)),
    )


def closed_form(**options: Any) -> BatchedObjective:
    clients = [
        LogisticRegression(features=one.features, labels=one.labels, l2=one.l2, **options)
        for one in problem(CLIENTS, 113)[0]
    ]
    return LogisticRegression.stack(clients).remembering()


def personal() -> BatchedObjective:
    members = [
        PersonalObjective(objective=one, key=torch.tensor([i]))
        for i, one in enumerate(problem(CLIENTS, 12, l2=0.5)[0])
    ]
    return PersonalObjective.stack(members)


def network() -> BatchedObjective:
    return TorchObjective.stack(Network(batch_size=4).objectives)


CASES: dict[str, Any] = {
    "efbv-comp": lambda: (efbv("comp:k=2,k_prime=9"), closed_form()),
    "efbv-natural": lambda: (efbv("natural"), closed_form()),
    "efbv-qsgd": lambda: (efbv("qsgd:levels=4"), closed_form(batch_size=3)),
    "efbv-cast": lambda: (efbv("top-k:k=4+cast:float16"), closed_form()),
    "efbv-first": lambda: (efbv("top-k:k=4", uncompressed=True), closed_form()),
    "efbv-network": lambda: (efbv("rand-k:k=9"), network()),
    "scafflix": lambda: (ScafflixRule(local_steps=3, p=0.3, gamma=GAMMA, alpha=ALPHA), personal()),
    "scaffnew-network": lambda: (
        ScafflixRule(local_steps=3, p=0.3, gamma=GAMMA, alpha=(1.0,) * CLIENTS),
        network(),
    ),
    "flix": lambda: (FLIXRule(alpha=ALPHA), personal()),
    "fedavg": lambda: (FedAvgRule(local_steps=3, gamma=GAMMA), closed_form(batch_size=3)),
    "fedavg-network": lambda: (FedAvgRule(local_steps=3, gamma=GAMMA), network()),
    "fedp3-network": lambda: (
        fedp3(Network(), max_norm=0.5, pruning=OrderedDropout(q=0.6)),
        network(),
    ),
    "sppm-gradients": lambda: (GradientRule(), closed_form()),
    "sppm-gradients-network": lambda: (GradientRule(), network()),
    "sppm-models": lambda: (
        LocalProxRule(steps=3, stepsize=0.1, curvature=0.5, vectors=2),
        closed_form(),
    ),
    "sppm-models-network": lambda: (
        LocalProxRule(steps=3, stepsize=0.1, curvature=0.5, vectors=2),
        network(),
    ),
}


def arguments(rule: Any, objective: BatchedObjective) -> tuple[dict[str, Tensor], Tensor]:
    """A memory and a point that are not zero."""
    d, dtype = objective.dimension, objective.dtype
    draw = torch.Generator().manual_seed(2)
    memory = rule.initial_memory(CLIENTS, d, dtype, torch.device("cpu"))
    memory = {name: torch.randn(CLIENTS, d, generator=draw).to(dtype) for name in memory}
    vectors = getattr(rule, "vectors", 1)
    x = 0.3 * torch.randn(vectors, d, generator=draw).to(dtype)
    return memory, x if vectors > 1 else x[0]


def same(found: tuple[Payload, Tensor], expected: tuple[Payload, Tensor]) -> bool:
    (one, losses), (other, others) = found, expected
    if one.kind != other.kind or not torch.equal(losses, others):
        return False
    if (one.keys is None) != (other.keys is None) or (one.indices is None) != (
        other.indices is None
    ):
        return False
    if one.keys is not None and other.keys is not None and not torch.equal(one.keys, other.keys):
        return False
    if one.indices is not None and other.indices is not None:
        return torch.equal(one.indices, other.indices) and torch.equal(one.dense(), other.dense())
    return torch.equal(one.dense(), other.dense())


@pytest.mark.parametrize("cohort", COHORTS)
@pytest.mark.parametrize("case", CASES)
def test_chunks_and_threads_do_not_change_a_bit(case: str, cohort: str) -> None:
    rule, objective = CASES[case]()
    clients = COHORTS[cohort]
    memory, x = arguments(rule, objective)
    rows = None if cohort == "everyone" else clients
    with single_threaded():
        expected = rule.step(memory, x, objective, KEYS[clients], clients=rows)
        for workers, chunk, faster in DIVISIONS:
            execution = Execution(workers=workers, chunk=chunk)
            if faster is not None:
                execution.pooled[type(rule)] = faster
            found = execution.run(rule, memory, x, objective, KEYS[clients], clients=clients)
            assert same(found, expected), (workers, chunk, faster)
            execution.close()


def test_another_client_has_other_bits() -> None:
    """Otherwise the comparison above could not fail."""
    rule, objective = CASES["fedavg-network"]()
    memory, x = arguments(rule, objective)
    some = COHORTS["some"]
    found = rule.step(memory, x, objective, KEYS[some], clients=some)
    other = rule.step(memory, x, objective, KEYS[some], clients=torch.tensor([0, 2, 3, 6, 7]))
    assert not same(found, other)


# ---------------------------------------------------------------- a rule that can be watched


class Clients(BatchedObjective):
    """Nothing but a number of clients; f_i is not asked for."""

    def __init__(self, *, looped: bool = True, concurrent: bool = True, dimension: int = 2) -> None:
        self._looped, self._concurrent, self._dimension = looped, concurrent, dimension

    def __len__(self) -> int:
        return 100

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    @property
    def num_examples(self) -> Tensor:
        return torch.ones(100, dtype=torch.int64)

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def looped(self) -> bool:
        return self._looped

    @property
    def concurrent(self) -> bool:
        return self._concurrent

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def values(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def accuracy(self, x: Tensor, *, clients: Tensor | None = None) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Watched(MemorylessRule):
    """Sends its clients' numbers; notes the chunks and threads; raises for some clients."""

    seen: list[tuple[int, list[int]]]
    raises: frozenset[int] = frozenset()

    def step(
        self,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor | None = None,
    ) -> tuple[Payload, Tensor]:
        rows = list(range(len(objective))) if clients is None else clients.tolist()
        self.seen.append((threading.get_ident(), rows))
        for row in rows:
            if row in self.raises:
                raise RuntimeError(f"client {row} is broken")
        numbers = torch.tensor(rows, dtype=x.dtype)
        return whole(numbers.unsqueeze(1) + x[:2]), -numbers


def step(execution: Execution, rule: Watched, objective: BatchedObjective, clients: Tensor) -> Any:
    keys = torch.zeros(len(clients), dtype=torch.int64)
    x = torch.zeros(objective.dimension, dtype=torch.float64)
    return execution.run(rule, {}, x, objective, keys, clients=clients)


@pytest.mark.parametrize("faster", [True, False])
def test_uploads_and_losses_keep_the_order_of_the_clients(faster: bool) -> None:
    clients = torch.tensor([3, 4, 17, 30, 31, 56, 99])
    execution = Execution(workers=3, chunk=1)
    execution.pooled[Watched] = faster
    rule = Watched([])
    payload, losses = step(execution, rule, Clients(), clients)
    execution.close()
    assert payload.dense()[:, 0].tolist() == clients.tolist()
    assert losses.tolist() == [-row for row in clients.tolist()]
    threads = {thread for thread, _ in rule.seen}
    assert (threads == {threading.get_ident()}) is not faster


@pytest.mark.parametrize("faster", [None, True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_clients_error_is_raised_as_it_is(workers: int, faster: bool | None) -> None:
    execution = Execution(workers=workers, chunk=1)
    if faster is not None:
        execution.pooled[Watched] = faster
    rule = Watched([], raises=frozenset({40, 41, 90}))
    with pytest.raises(RuntimeError, match=r"^client 40 is broken$"):
        step(execution, rule, Clients(), torch.arange(100))
    # Nobody is at work any more, and the next round can be computed.
    payload, _ = step(execution, rule, Clients(), torch.arange(40))
    execution.close()
    assert payload.dense()[:, 1].tolist() == list(range(40))


@pytest.mark.parametrize(("seconds", "pool"), [((1.0, 2.0), False), ((2.0, 1.0), True)])
def test_the_clock_decides_once_for_each_kind_of_rule(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], pool: bool
) -> None:
    from fedstrategies.engines import execution as module

    readings = iter(seconds)

    def clock(call: Any) -> float:
        call()
        return next(readings)

    monkeypatch.setattr(module, "_seconds", clock)
    rule, execution = Watched([]), Execution(workers=2, chunk=10)
    for _ in range(2):
        payload, _ = step(execution, rule, Clients(), torch.arange(100))
        assert payload.dense()[:, 0].tolist() == list(range(100))
    execution.close()
    assert execution.pooled == {Watched: pool}
    last_round = rule.seen[-10:]
    assert ({thread for thread, _ in last_round} == {threading.get_ident()}) is not pool
    # The sample of two chunks a thread three times, and then what is left of two rounds.
    assert len(rule.seen) == 3 * 4 + 6 + 10


@pytest.mark.parametrize(("seconds", "times"), [(0.01, 3), (0.2, 2), (0.3, 1)])
def test_measuring_is_not_repeated_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    from fedstrategies.engines import execution as module

    def clock(call: Any) -> float:
        call()
        return seconds

    monkeypatch.setattr(module, "_seconds", clock)
    rule, execution = Watched([]), Execution(workers=2, chunk=10)
    step(execution, rule, Clients(), torch.arange(100))
    execution.close()
    assert len(rule.seen) == (1 + 2 * times) * 4 + 6


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"dimension": 2**15, "looped": False}])
def test_what_was_computed_to_be_measured_is_not_computed_again(
    monkeypatch: pytest.MonkeyPatch, pool: bool, sizes: dict[str, Any]
) -> None:
    """Also where one thread would take other chunks than the pool."""
    from fedstrategies.engines import execution as module

    readings = iter((0.4, 0.2) if pool else (0.2, 0.4))

    def clock(call: Any) -> float:
        call()
        return next(readings)

    monkeypatch.setattr(module, "_seconds", clock)
    objective = Clients(**sizes)
    execution = Execution(workers=2, chunk=None if sizes else 10)
    rule = Watched([])
    payload, losses = step(execution, rule, objective, torch.arange(100))
    execution.close()
    assert payload.dense()[:, 0].tolist() == list(range(100))
    assert losses.tolist() == [-float(i) for i in range(100)]
    times = Counter(row for _, rows in rule.seen for row in rows)
    sample = 50 if sizes else 40
    assert times == Counter({i: 3 if i < sample else 1 for i in range(100)})


def test_a_remembered_gradient_is_computed_while_it_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule, remembering = efbv("top-k:k=4"), closed_form()
    memory, x = arguments(rule, remembering)
    remembering.value_and_gradient(x)  # as the record of x^0 does
    inner = without_memory(remembering)
    evaluated: list[int] = []
    compute = type(inner).value_and_gradient

    def counted(self: Any, x: Tensor, **rest: Any) -> Any:
        evaluated.append(len(rest["clients"]))
        return compute(self, x, **rest)

    monkeypatch.setattr(type(inner), "value_and_gradient", counted)
    execution = Execution(workers=2, chunk=1)
    with single_threaded():
        found = execution.run(rule, memory, x, remembering, KEYS, clients=IDS)
        assert len(evaluated) >= 3 * 4
        assert same(found, rule.step(memory, x, remembering, KEYS))
        # Later rounds have it from memory.
        evaluated.clear()
        again = execution.run(rule, memory, x, remembering, KEYS, clients=IDS)
        assert not evaluated
    execution.close()
    assert same(again, found)


class There(Clients):
    """Clients on a device that is not the CPU."""

    @property
    def device(self) -> torch.device:
        return DEVICE


@pytest.mark.parametrize(("objective", "most"), [(There(), 2), (Clients(), 6)])
def test_no_more_clients_share_a_device_than_have_room(objective: Clients, most: int) -> None:
    lock, at_work, peak = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    @dataclass(frozen=True, eq=False)
    class Busy(Watched):
        def step(self, memory: Any, x: Any, objective: Any, keys: Any, **rest: Any) -> Any:
            nonlocal at_work, peak
            with lock:
                at_work += len(keys)
                peak = max(peak, at_work)
            if objective.device.type == "cpu":
                together.wait(10)  # else all might come one after the other
            found = super().step(memory, x.cpu(), objective, keys, **rest)
            with lock:
                at_work -= len(keys)
            return found

    execution = Execution(workers=3, chunk=2)
    execution.pooled[Busy] = True
    with fake_device():
        x = torch.zeros(2, dtype=torch.float64)
        keys = torch.zeros(12, dtype=torch.int64)
        payload, _ = execution.run(Busy([]), {}, x, objective, keys, clients=torch.arange(12))
    execution.close()
    assert payload.dense()[:, 0].tolist() == list(range(12))
    assert peak == most


@pytest.mark.parametrize(
    "objective", [Clients(concurrent=False), Clients(concurrent=False, looped=False)]
)
def test_what_may_not_run_side_by_side_stays_in_the_callers_thread(objective: Clients) -> None:
    execution, rule = Execution(workers=4, chunk=7), Watched([])
    step(execution, rule, objective, torch.arange(100))
    assert {thread for thread, _ in rule.seen} == {threading.get_ident()}
    assert execution.pooled == {}


def chunks_of(objective: Clients, workers: int = 1) -> list[int]:
    execution, rule = Execution(workers=workers), Watched([])
    execution.pooled[Watched] = workers > 1
    step(execution, rule, objective, torch.arange(100))
    execution.close()
    return sorted(len(rows) for _, rows in rule.seen)


def test_chunks_are_bounded_by_bytes() -> None:
    mebibyte = 2**17
    assert chunks_of(Clients(dimension=112)) == [100]
    assert chunks_of(Clients(dimension=mebibyte)) == [1] * 100
    assert chunks_of(Clients(dimension=mebibyte // 10)) == [10] * 10
    assert chunks_of(Clients(dimension=mebibyte, looped=False)) == [4] * 25
    assert chunks_of(Clients(dimension=2 * mebibyte, looped=False)) == [2] * 50


def test_more_threads_get_more_chunks_where_there_is_enough_to_do() -> None:
    assert chunks_of(Clients(dimension=112), workers=4) == [100]
    assert chunks_of(Clients(dimension=2**13, looped=False), workers=4) == [25] * 4
    assert len(chunks_of(Clients(dimension=2**17, looped=False), workers=4)) == 28


def test_the_same_threads_compute_all_rounds_and_end_with_the_session() -> None:
    execution, rule = Execution(workers=2, chunk=1), Watched([])
    execution.pooled[Watched] = True
    before = threading.active_count()
    for _ in range(3):
        step(execution, rule, Clients(), torch.arange(20))
    assert threading.active_count() <= before + 2
    execution.close()
    assert threading.active_count() == before


def test_nobody_is_an_empty_batch() -> None:
    payload, losses = step(Execution(workers=2), Watched([]), Clients(), torch.arange(0))
    assert len(payload) == len(losses) == 0


def test_messages_of_another_kind_are_refused() -> None:
    gathering = Gathering(3)
    gathering.put(0, whole(torch.zeros(1, 4)), torch.zeros(1))
    with pytest.raises(ValueError, match="different kinds"):
        gathering.put(1, whole(torch.zeros(1, 5)), torch.zeros(1))


@pytest.mark.parametrize("settings", [{"workers": 0}, {"chunk": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Execution(**settings)


def test_a_grid_takes_a_number_of_workers() -> None:
    assert Execution().workers == available_cores() >= 1
    app = Network().app
    assert CohortGrid(app, num_clients=2, workers=3).workers == 3
    with pytest.raises(ValueError, match="workers = 0"):
        CohortGrid(app, num_clients=2, workers=0)
