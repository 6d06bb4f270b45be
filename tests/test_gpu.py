"""Everything of length d on another device: a fake one, which runs anywhere, and CUDA.

On the fake device numbers are computed on the CPU, so what differs is the code that was chosen for
other devices, and results are equal to the last bit where it promises so. On CUDA sums have other
orders: 1e-12 in float64, relative to the largest entry, and 1e-5 in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Literal

import pytest
import torch
from flwr.app import ArrayRecord, Context
from torch import Tensor, nn

from fedstrategies.compressors import COMPRESSOR_EXAMPLES, Payload, RandK, TopK, parse_compressor
from fedstrategies.efbv import EF21, EFBVClient
from fedstrategies.efbv.algorithm import ClientRule as EFBVRule
from fedstrategies.engines import CohortGrid
from fedstrategies.engines.execution import Execution
from fedstrategies.fedp3.algorithm import FedP3Rule, LocalTraining
from fedstrategies.fedp3.frames import Downlink
from fedstrategies.flower import client_app
from fedstrategies.flower.on_device import step_on_device
from fedstrategies.objectives import (
    BatchedObjective,
    LocalOptimum,
    LogisticRegression,
    PersonalObjective,
    TorchObjective,
)
from fedstrategies.objectives.wrapped import WrappedObjectives
from fedstrategies.pruning import OrderedDropout, UniformPruning, layer_groups
from fedstrategies.random import Purpose, client_keys, sample_without_replacement, uniforms
from fedstrategies.reduce import sum_over_clients
from fedstrategies.scafflix.algorithm import ScafflixRule
from fedstrategies.scafflix.baseline_rules import FedAvgRule
from fedstrategies.sppm.algorithm import GradientRule, LocalProxRule
from fedstrategies.wire import decode, encode, encode_rows, encoded_sizes
from tests.fake_device import DEVICE, elsewhere, fake_device

CLIENTS, DIMENSION = 40, 300
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
)


@pytest.fixture(params=["fake", CUDA])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda":
        yield torch.device("cuda", 0)
        return
    with fake_device() as made:
        yield made


def move(tensor: Tensor, device: torch.device) -> Tensor:
    return elsewhere(tensor) if device == DEVICE else tensor.to(device)


def close(found: Tensor, expected: Tensor, *, exact: bool = False) -> None:
    found = found.cpu()
    assert found.dtype == expected.dtype
    tolerance = 1e-5 if expected.dtype == torch.float32 else 1e-12
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    limit = 0.0 if exact else tolerance * max(scale, 1.0)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=limit)


def vectors(dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(CLIENTS, DIMENSION, generator=draw).to(dtype)
    rows[:, 50:100] = rows[:, :1]  # ties
    rows[0] = 0.0
    return rows


def keys() -> Tensor:
    return client_keys(1, 2, torch.arange(CLIENTS), Purpose.COMPRESSOR)


def same_messages(found: Payload, expected: Payload) -> None:
    assert found.kind == expected.kind
    if expected.indices is not None:
        assert found.indices is not None
        assert torch.equal(found.indices.cpu(), expected.indices)
    close(found.values.to_tensor(), expected.values.to_tensor())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spec", [*COMPRESSOR_EXAMPLES.values(), "top-k:k=5+natural"])
def test_compressors_choose_the_same_and_take_as_many_bytes(
    device: torch.device, spec: str, dtype: torch.dtype
) -> None:
    compressor, rows = parse_compressor(spec), vectors(dtype)
    expected = compressor.compress(rows, keys())
    found = compressor.compress(move(rows, device), move(keys(), device))
    assert found.values.to_tensor().device == device
    same_messages(found, expected)
    sizes, blobs = encoded_sizes(expected), encode_rows(found)
    assert torch.equal(encoded_sizes(found).cpu(), sizes)
    assert [len(blob) for blob in blobs] == sizes.tolist()
    same_messages(decode(encode(found, 3), dimension=DIMENSION), expected.rows(slice(3, 4)))


@pytest.mark.parametrize("compressor", [TopK(k=5), RandK(k=5)])
def test_only_the_kept_items_leave_the_device(
    device: torch.device, compressor: TopK, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, streams = move(vectors(), device), move(keys(), device)
    moved: dict[int, Tensor] = {}
    copy = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            moved[id(tensor)] = tensor
        return copy(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    encode_rows(compressor.compress(rows, streams))
    assert 0 < sum(tensor.numel() for tensor in moved.values()) <= CLIENTS * (2 * 5 + 1)


@pytest.mark.parametrize("ids", [range(CLIENTS), range(3, 3 + 2 * CLIENTS, 2)])
def test_sums_over_clients(device: torch.device, ids: range) -> None:
    """In the one order, whatever the device: additions are correctly rounded everywhere."""
    rows, partitions = vectors(), torch.tensor(list(ids))
    for given in (partitions, move(partitions, device)):
        total = sum_over_clients(move(rows, device), given)
        assert total.device == device
        close(total, sum_over_clients(rows, partitions), exact=True)
        sparse = TopK(k=7).compress(rows, keys())
        there = TopK(k=7).compress(move(rows, device), move(keys(), device))
        close(there.total(given), sparse.total(partitions), exact=True)


def test_memories_are_advanced_where_they_are(device: torch.device) -> None:
    chosen = torch.arange(1, CLIENTS, 3)
    for spec in ("top-k:k=5", "identity", "rand-k:k=9"):
        here, there = vectors(), move(vectors(), device)
        payload = parse_compressor(spec).compress(vectors()[chosen], keys()[chosen])
        distant = parse_compressor(spec).compress(
            move(vectors()[chosen], device), move(keys()[chosen], device)
        )
        payload.add_to_(here, 0.3, clients=chosen)
        distant.add_to_(there, 0.3, clients=move(chosen, device))
        close(there, here, exact=True)


@pytest.mark.parametrize(("population", "count"), [(10, 3), (300, 7), (300, 200), (5000, 20)])
def test_draws(device: torch.device, population: int, count: int) -> None:
    assert torch.equal(uniforms(move(keys(), device), 9).cpu(), uniforms(keys(), 9))
    found = sample_without_replacement(move(keys(), device), population, count)
    assert found.device == device
    assert torch.equal(found.cpu(), sample_without_replacement(keys(), population, count))


def test_closed_forms_agree(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(3)
    sizes = [5, 5, 8]
    rows = [torch.randn(m, 6, generator=draw).double() for m in sizes]
    labels = [torch.randn(m, generator=draw).double().sign() for m in sizes]

    def stacked(place: torch.device) -> BatchedObjective:
        clients = [
            LogisticRegression(features=place_(f), labels=place_(y), l2=0.1)
            for f, y in zip(rows, labels, strict=True)
        ]
        return LogisticRegression.stack(clients)

    def place_(tensor: Tensor) -> Tensor:
        return move(tensor, device) if there else tensor

    x = torch.randn(6, generator=draw).double()
    there = False
    expected = stacked(torch.device("cpu")).value_and_gradient(x)
    there = True
    found = stacked(device).value_and_gradient(move(x, device))
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    # From the server's model: the step crosses over.
    there = False
    rule, memory = RULES["efbv top-k"], {"h": torch.zeros(3, 6, dtype=torch.float64)}
    expected_payload, _ = rule.step(memory, x, stacked(CPU), STREAMS)
    there = True
    payload, _ = step_on_device(rule, memory, x, stacked(device), STREAMS)
    same_messages(payload, expected_payload)


# ------------------------------------------------------------------ objectives and rules


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 4), nn.ReLU(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip


def clients(device: torch.device, *, data_there: bool = True) -> BatchedObjective:
    return TorchObjective.stack(members_of(device, data_there=data_there))


def members_of(device: torch.device, *, data_there: bool = True) -> list[TorchObjective]:
    draw = torch.Generator().manual_seed(4)
    members = []
    for count in (6, 9, 7):
        features = torch.randn(count, 1, 6, 6, generator=draw).double()
        targets = torch.randint(3, (count,), generator=draw)
        if device.type != "cpu" and data_there:
            features, targets = move(features, device), move(targets, device)
        members.append(
            TorchObjective(
                module=network(),
                loss=nn.CrossEntropyLoss(),
                data=(features, targets),
                batch_size=4,
                l2=0.01,
                device=device,
            )
        )
    return members


CPU = torch.device("cpu")
THREE = torch.arange(3)
STREAMS = client_keys(0, 1, THREE, Purpose.CLIENT)


def model() -> Tensor:
    return (
        0.1
        * torch.randn(clients(CPU).dimension, generator=torch.Generator().manual_seed(6)).double()
    )


@pytest.mark.parametrize("data_there", [True, False])
def test_objectives_compute_there_and_answer_where_x_is(
    device: torch.device, data_there: bool
) -> None:
    here, there = clients(CPU), clients(device, data_there=data_there)
    assert (here.device, there.device) == (CPU, device)
    x = model()
    expected = here.value_and_gradient(x, keys=STREAMS)
    for point, where in ((x, CPU), (move(x, device), device)):
        found = there.value_and_gradient(point, keys=STREAMS)
        for one, other in zip(found, expected, strict=True):
            assert one.device == where
            close(one, other)
        moved = there.value_and_gradient(point, keys=move(STREAMS, device))
        assert torch.equal(moved[1].cpu(), found[1].cpu())
        close(there.values(point), here.values(x))
        close(there.accuracy(point), here.accuracy(x))


RULES = {
    "efbv top-k": EFBVRule(compressor=TopK(k=5), memory_step=0.4),
    "efbv rand-k": EFBVRule(compressor=RandK(k=5), memory_step=0.4),
    "efbv first": EFBVRule(compressor=TopK(k=5), memory_step=1.0, uncompressed=True),
    "scafflix": ScafflixRule(local_steps=3, p=0.3, gamma=(0.1, 0.2, 0.3), alpha=(1.0, 1.0, 1.0)),
    "fedavg": FedAvgRule(local_steps=3, gamma=(0.1, 0.2, 0.3)),
    "sppm gradient": GradientRule(),
    "local prox": LocalProxRule(steps=2, stepsize=0.1, curvature=0.5),
}


class Spy(WrappedObjectives):
    """Notes on which devices it is asked."""

    def __init__(self, inner: BatchedObjective) -> None:
        super().__init__(inner)
        self.seen: set[torch.device] = set()

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.seen.add(x.device)
        return super().value_and_gradient(x, clients=clients, keys=keys)


@pytest.mark.parametrize("selection", [None, torch.tensor([0, 2])])
@pytest.mark.parametrize("name", RULES)
def test_steps_on_the_device_send_what_steps_on_the_cpu_send(
    device: torch.device, name: str, selection: Tensor | None
) -> None:
    rule, x = RULES[name], model()
    memory = rule.initial_memory(3, len(x), x.dtype, CPU)
    for value in memory.values():
        value += torch.randn(value.shape, generator=torch.Generator().manual_seed(8)).double()
    streams = STREAMS if selection is None else STREAMS[selection]
    expected, losses = rule.step(memory, x, clients(CPU), streams, clients=selection)
    found, answered = step_on_device(rule, memory, x, clients(device), streams, clients=selection)
    assert found.values.to_tensor().device == CPU
    same_messages(found, expected)
    close(answered, losses)
    assert torch.equal(encoded_sizes(found), encoded_sizes(expected))
    rows = THREE if selection is None else selection
    for chunk in (1, 3):
        spied = Spy(clients(device))
        engine = Execution(workers=1, chunk=chunk)
        sent, _ = engine.run(rule, memory, x, spied, streams, clients=rows)
        same_messages(sent, expected)
        assert spied.seen == {device}


def test_scafflix_settles_on_the_device(device: torch.device) -> None:
    rule, x = RULES["scafflix"], model()
    rows = torch.tensor([0, 2])
    memory = {"h": torch.zeros(3, len(x), dtype=x.dtype)}
    there = {"h": move(memory["h"], device)}
    payload, _ = rule.step(memory, x, clients(CPU), STREAMS[rows], clients=rows)
    distant, _ = rule.step(there, move(x, device), clients(device), STREAMS[rows], clients=rows)
    rule.commit_(memory, payload, clients=rows, settlement=x)
    rule.commit_(there, distant, clients=rows, settlement=move(x, device))
    close(there["h"], memory["h"])


@pytest.mark.parametrize("pruning", [UniformPruning(q=0.5), OrderedDropout(q=0.5)])
def test_fedp3_trains_there_with_clients_of_several_step_counts(
    device: torch.device, pruning: UniformPruning | OrderedDropout
) -> None:
    x, groups = model(), layer_groups(network())
    for norm in (inf, 0.5):
        training = LocalTraining(stepsize=0.1, max_norm=norm, pruning=pruning)
        steps = torch.tensor([1, 3, 2])
        expected = training.run(x, clients(CPU), groups, steps=steps, keys=STREAMS)
        found = training.run(move(x, device), clients(device), groups, steps=steps, keys=STREAMS)
        for one, other in zip(found, expected, strict=True):
            assert one.device == device
            close(one, other)


def test_fedp3_sends_its_layers_from_there(device: torch.device) -> None:
    groups = layer_groups(network())
    assigned = tuple(group != 1 for group in range(len(groups)))
    for trained in ("all", "assigned"):
        rule = FedP3Rule(
            downlink=Downlink(groups=groups, assigned=assigned, keep=0.5),
            training=LocalTraining(stepsize=0.1),
            local_steps=(1, 2, 2),
            trained=trained,
        )
        x = model()
        x[::7] = 0.0  # pruned
        expected, _ = rule.step({}, x, clients(CPU), STREAMS)
        found, _ = step_on_device(rule, {}, x, clients(device), STREAMS)
        same_messages(found, expected)


def test_personal_models_are_mixed_on_the_device(device: torch.device) -> None:
    rule = ScafflixRule(local_steps=2, p=0.5, gamma=(0.1,) * 3, alpha=(0.3, 1.0, 0.7))
    x = model()
    memory = {"h": torch.zeros(3, len(x), dtype=x.dtype)}

    def personal(place: torch.device) -> BatchedObjective:
        members = [PersonalObjective(objective=one, key=STREAMS[:1]) for one in members_of(place)]
        for shift, member in enumerate(members):
            member.restore(LocalOptimum(x=x + shift, residual=0.0, passes=0.0))
        return PersonalObjective.stack(members)

    assert personal(device).device == device
    expected, losses = rule.step(memory, x, personal(CPU), STREAMS)
    found, answered = step_on_device(rule, memory, x, personal(device), STREAMS)
    same_messages(found, expected)
    close(answered, losses)


@pytest.mark.parametrize("fast", ["require", "never"])
def test_a_run_with_clients_there_is_a_run_with_clients_here(
    device: torch.device, fast: Literal["require", "never"]
) -> None:
    """Engine and message path: the server, its memories and the wire do not notice."""

    def trained(place: torch.device) -> EF21:
        members = members_of(place)

        def client(context: Context) -> EFBVClient:
            objective = members[int(context.node_config["partition-id"])]
            return EFBVClient(context, objective=objective)

        strategy = EF21(compressor=TopK(k=9), stepsize=0.2, num_clients=3, fraction_evaluate=0.0)
        start = ArrayRecord(members[0].initial_arrays())
        # Threads of a pool would not know of the fake device.
        grid = CohortGrid(client_app(client), num_clients=3, fast=fast, workers=1)
        strategy.start(grid, start, num_rounds=3)
        return strategy

    expected, found = trained(CPU), trained(device)
    assert found.x.device == CPU
    close(found.x, expected.x)
    assert found.memory is not None
    assert expected.memory is not None
    close(found.memory["h"], expected.memory["h"])
    assert found.bytes == expected.bytes
    assert not found.failures


# ------------------------------------------------------------------ the fake device itself


def test_the_fake_device_refuses_what_cuda_refuses() -> None:
    with fake_device() as device:
        there = torch.arange(3.0).to(device)
        with pytest.raises(RuntimeError, match="one device"):
            there + torch.arange(3.0)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="one device"):
            torch.cat([there, torch.zeros(1)])
        assert torch.equal((there + torch.tensor(1.0)).cpu(), torch.tensor([1.0, 2.0, 3.0]))
        assert torch.tensor([1.0], device=device).device == device
        there[torch.tensor([1])] = 5.0
        assert there.tolist() == [0.0, 5.0, 2.0]
