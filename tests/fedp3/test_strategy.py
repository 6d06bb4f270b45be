"""FedP3 through Flower's messages and without them, whole and under faults."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from fedstrategies.engines import CohortGrid
from fedstrategies.fedp3 import (
    Attention,
    CapacityLayers,
    FedP3,
    PersonalHead,
    Weighted,
    expected_bytes,
    parse_layers,
)
from fedstrategies.flower import BaseStrategy, client_app
from fedstrategies.flower.control import Request, Response
from fedstrategies.flower.records import blob_of, records_of
from fedstrategies.objectives import Smoothness
from fedstrategies.pruning import GlobalPruning, OrderedDropout, OrderedPruning, UniformPruning
from fedstrategies.random import Purpose, client_keys
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FedAvg, ScafflixClient
from fedstrategies.wire import decode, decode_vector
from tests.fedp3.setting import CLIENTS, SIZES, Setting
from tests.flower.faults import Faults, FaultyGrid

STEP = 0.1
SEVERAL: dict[str, dict[str, Any]] = {
    "all": {},
    "lowerb": {"layers": parse_layers("lowerb")},
    "opu2-pruned": {"layers": parse_layers("opu2"), "pruning": GlobalPruning(keep=0.6)},
    "opr2-weighted": {"layers": parse_layers("opr2"), "aggregation": Weighted()},
    "ordered": {"layers": parse_layers("opu3"), "pruning": OrderedPruning(keep=0.5)},
    "own-shares": {
        "layers": CapacityLayers(capacity=(400, 700, 900, 1000, 1200, 2000, 3000, 9000)),
        "pruning": GlobalPruning(keep=tuple(0.1 * i for i in range(1, 9))),
        "local_steps": (1, 2, 3, 1, 2, 3, 1, 2),
    },
    "attention": {"layers": parse_layers("opu23"), "aggregation": Attention(temperature=0.1)},
    "uniform": {"local_pruning": UniformPruning(q=0.5), "sampling": NiceSampling(cohort_size=3)},
    "dropout": {"local_pruning": OrderedDropout(q=0.5), "trained": "assigned", "max_norm": 1.0},
}


@pytest.fixture
def setting() -> Setting:
    return Setting(batch_size=4)


def fedp3(setting: Setting, **options: Any) -> FedP3:
    return FedP3(groups=setting.groups, **{"stepsize": STEP, "local_steps": 2, **options})


def run(
    setting: Setting,
    strategy: BaseStrategy,
    fast: Any,
    rounds: int = 6,
    evaluate: float = 0.0,
) -> CohortGrid:
    strategy.fraction_evaluate = evaluate
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast, serialize=fast == "never")
    strategy.start(grid, setting.start, num_rounds=rounds)
    return grid


@pytest.mark.parametrize("options", SEVERAL.values(), ids=list(SEVERAL))
def test_the_fast_path_and_messages_give_the_same_bits_and_bytes(
    setting: Setting, options: dict[str, Any]
) -> None:
    batched, by_message = fedp3(setting, **options), fedp3(setting, **options)
    # What an evaluation costs does not depend on the options: one of them shows it.
    evaluate = float(not options)
    run(setting, batched, "require", evaluate=evaluate)
    run(setting, by_message, "never", evaluate=evaluate)
    assert torch.equal(batched.x, by_message.x)
    assert not torch.equal(batched.x, setting.x)
    assert batched.bytes == by_message.bytes


def test_all_layers_unpruned_is_fedavg_bit_for_bit(setting: Setting) -> None:
    fedavg = FedAvg(local_steps=3, stepsize=STEP)
    app = client_app(
        lambda context: ScafflixClient(
            context, objective=setting.objectives[int(context.node_config["partition-id"])]
        )
    )
    fedavg.start(CohortGrid(app, num_clients=CLIENTS), setting.start, num_rounds=8)
    for fast in ("require", "never"):
        mine = fedp3(setting, local_steps=3)
        run(setting, mine, fast, rounds=8)
        assert torch.equal(mine.x, fedavg.x)


def test_weighted_with_equally_many_layers_is_simple(setting: Setting) -> None:
    simple = fedp3(setting, layers=parse_layers("opu2"))
    weighted = fedp3(setting, layers=parse_layers("opu2"), aggregation=Weighted())
    run(setting, simple, "require")
    run(setting, weighted, "require")
    assert torch.equal(simple.x, weighted.x)


class Listening(CohortGrid):
    """Keeps every train request and reply."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, fast="never", **kwargs)
        self.heard: list[tuple[Message, Message]] = []

    def execute(self, message: Message, node: int) -> Message:
        reply = super().execute(message, node)
        if message.metadata.message_type == "train":
            self.heard.append((message, reply))
        return reply


def frames(message: Message) -> list[bytes]:
    (record,) = records_of(message.content, ArrayRecord)
    return [blob_of(record[name]).tobytes() for name in sorted(record, key=int)]


def test_uploads_hold_nothing_but_own_layers_and_bytes_follow_the_formula(setting: Setting) -> None:
    pruning = GlobalPruning(keep=0.5)
    strategy = fedp3(
        setting,
        layers=parse_layers("lowerb"),
        pruning=pruning,
        trained="assigned",
        fraction_evaluate=0.0,
    )
    grid = Listening(setting.app, num_clients=CLIENTS)
    before = setting.x
    strategy.start(grid, setting.start, num_rounds=1)
    assigned = strategy.assigned(1)
    formula = expected_bytes(setting.groups, assigned, pruning=pruning)
    mask = pruning.mask(before, setting.groups, 0.5)
    for request, reply in grid.heard[:CLIENTS]:
        client = grid.partitions[request.metadata.dst_node_id]
        own = setting.groups.expand(assigned[client])
        (blob,) = frames(reply)
        upload = decode_vector(blob, dimension=int(own.sum()))
        asked = next(a for a in strategy.plan(1) if client in a.partition_ids.tolist())
        constants = asked.constants_of(asked.partition_ids.tolist().index(client))
        rule = setting.client(grid.contexts[request.metadata.dst_node_id]).rule(
            constants, asked.spec
        )
        point = torch.where(own | mask, before, torch.zeros_like(before))
        for entry in setting.groups.entries:
            if not entry.is_weight:
                point[entry.span] = before[entry.span]
        key = client_keys(strategy.seed, 1, torch.tensor([client]), Purpose.CLIENT)
        expected, _ = rule.step({}, point, setting.objectives[client].as_batch, key)
        assert torch.equal(upload, expected.dense()[0])
        assert int(formula.up[client]) < len(blob) <= int(formula.up[client]) + 64
        down = sum(map(len, frames(request)))
        assert down <= int(formula.down[client]) + 64
    requests = sum(sum(map(len, frames(m))) for m, _ in grid.heard)
    settings = Request.size(strategy.plan(1)[0].constants_of(0), strategy.plan(1)[0].spec)
    assert strategy.bytes.downlink == requests + CLIENTS * settings
    uploads = sum(sum(map(len, frames(m))) for _, m in grid.heard)
    assert strategy.bytes.uplink == uploads + CLIENTS * Response.SIZE


def test_each_client_gets_its_own_share(setting: Setting) -> None:
    shares = tuple(0.1 * i for i in range(1, 9))
    pruning = GlobalPruning(keep=shares)
    strategy = fedp3(setting, layers=parse_layers("lowerb"), pruning=pruning, fraction_evaluate=0.0)
    grid = Listening(setting.app, num_clients=CLIENTS)
    strategy.start(grid, setting.start, num_rounds=1)
    assigned = strategy.assigned(1)
    for request, _ in grid.heard:
        client = grid.partitions[request.metadata.dst_node_id]
        outside = [
            entry
            for position, entry in enumerate(setting.groups.entries)
            if entry.is_weight
            and not assigned[client, int(setting.groups.group_of_entry[position])]
        ]
        kept = sum(int(shares[client] * entry.size) for entry in outside)
        sparse = decode(frames(request)[1], dimension=sum(entry.size for entry in outside))
        assert sparse.indices is not None
        assert sparse.indices.shape == (1, kept)


def test_a_layer_that_nobody_sent_stays(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    smallest = 4 * int(setting.groups.sizes[-1])
    strategy = fedp3(setting, layers=CapacityLayers(capacity=smallest))
    with caplog.at_level(logging.WARNING, logger="flwr"):
        run(setting, strategy, "never", rounds=3)
    changed = strategy.x != setting.x
    for position, group in enumerate(setting.groups):
        touched = any(bool(changed[part].any()) for part in group.slices)
        assert touched == (position == setting.groups.classifier)
    idle = ", ".join(setting.groups.names[:-1])
    assert f"no client trains {idle}: they stay as they are" in caplog.text


def test_lost_replies_leave_the_mean_to_those_who_answered(setting: Setting) -> None:
    faults = Faults(lose_reply=0.3, duplicate_reply=0.2, delay_reply=0.1, wipe_state=0.2)
    found = []
    for _ in range(2):
        strategy = fedp3(
            setting,
            layers=parse_layers("opu2"),
            pruning=GlobalPruning(keep=0.7),
            fraction_evaluate=0.0,
        )
        grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=faults)
        strategy.start(grid, setting.start, num_rounds=20)
        found.append(strategy.x)
    assert grid.happened["lose_reply"] > 20
    assert grid.happened["wipe_state"] > 20
    losses = [float(objective.value(found[0])) for objective in setting.objectives]
    first = [float(objective.value(setting.x)) for objective in setting.objectives]
    assert sum(losses) < 0.8 * sum(first)
    assert torch.equal(*found)


def test_a_client_that_joins_late_is_like_any_other(setting: Setting) -> None:
    class Late(CohortGrid):
        fixed_membership = False
        asked: tuple[int, ...] = ()

        def push_messages(self, messages: Any) -> Any:
            messages = list(messages)
            self.asked = tuple(self.partitions[m.metadata.dst_node_id] for m in messages)
            return super().push_messages(messages)

    grid = Late(setting.app, num_clients=CLIENTS, fast="never")
    strategy = fedp3(setting, layers=parse_layers("opu2"), fraction_evaluate=0.0)
    everyone = dict(grid.contexts)
    strategy.start(grid, setting.start, num_rounds=1)
    gone = list(everyone)[3]
    del grid.contexts[gone]
    strategy.start(grid, strategy.arrays, num_rounds=2)
    assert 3 not in grid.asked
    grid.contexts = {node: everyone[node] for node in everyone}
    strategy.start(grid, strategy.arrays, num_rounds=1)
    assert strategy.participants == CLIENTS


def test_upstreams_own_start_drives_it(setting: Setting) -> None:
    ours, theirs = (fedp3(setting, layers=parse_layers("opu2")) for _ in range(2))
    run(setting, ours, "never")
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    Strategy.start(theirs, grid, setting.start, num_rounds=6)
    assert torch.equal(ours.x, theirs.x)


def test_personal_heads_are_tuned_after_the_last_round_only(setting: Setting) -> None:
    strategy = fedp3(setting, personal_head=PersonalHead(steps=30, stepsize=0.3))
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    result = strategy.start(grid, setting.start, num_rounds=3)
    found = {round: dict(metrics) for round, metrics in result.evaluate_metrics_clientapp.items()}
    assert "accuracy_personal" not in found[2]
    assert found[3]["accuracy_personal"] >= found[3]["accuracy"]  # type: ignore[operator]
    assert "accuracy_personal_worst_decile" in found[3]


def test_settings_that_do_not_fit_are_refused(setting: Setting) -> None:
    known = Smoothness(L=1.0, L_tilde=2.0, L_max=4.0)
    theory = FedP3(groups=setting.groups, smoothness=known)
    run(setting, theory, "require", rounds=1)
    assert theory.gamma == 0.25
    for options, why in (
        ({"stepsize": None}, "the theory's step size needs smoothness"),
        ({"stepsize": "fast"}, "stepsize: 'fast' is not theory"),
        ({"local_steps": 0}, "local_steps = 0: at least one"),
        ({"local_steps": (1, 2)}, "local_steps: 2 numbers for 8 clients"),
        ({"trained": "some"}, "trained = 'some' is not 'all' or 'assigned'"),
        ({"pruning": GlobalPruning(keep=(0.5,) * 3)}, "keep has 3 shares and none for client 3"),
        ({"layers": CapacityLayers(capacity=8)}, "belongs to every client"),
    ):
        with pytest.raises(ValueError, match=why):
            run(setting, fedp3(setting, **options), "never", rounds=1)
    renamed = ArrayRecord({f"model.{k}": v for k, v in setting.start.items()})
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    with pytest.raises(ValueError, match="the layer groups are of a model with entries"):
        fedp3(setting).start(grid, renamed, num_rounds=1)


def test_the_sizes_of_the_shards_differ() -> None:
    """What the other tests rely on: a mean by examples would be another number."""
    assert len(set(SIZES)) > 4
