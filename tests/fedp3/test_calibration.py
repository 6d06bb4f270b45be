"""P_i by criteria that look at activations: what clients tell, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context
from torch import Tensor, nn

from fedstrategies.engines import CohortGrid
from fedstrategies.fedp3 import Calibration, FedP3, FedP3Client, LDPFedP3, parse_layers
from fedstrategies.fedp3.calibration import Gathering
from fedstrategies.fedp3.settings import rule_of
from fedstrategies.flower import AllClientsFailed, client_app
from fedstrategies.objectives import TorchObjective
from fedstrategies.privacy import Budget, Ledger, MessagePrivacy, Privacy
from fedstrategies.pruning import (
    RIA,
    ActivationStatistics,
    Calibrated,
    GlobalPruning,
    Magnitude,
    OrderedPruning,
    SquaredActivations,
    StochRIA,
    SymWanda,
    Wanda,
    layer_groups,
)
from fedstrategies.robust import Median
from fedstrategies.sampling import NiceSampling
from tests.fedp3.setting import CLIENTS, Setting, grid_of
from tests.flower.faults import Faults, FaultyGrid

CRITERIA = (Wanda(), SymWanda(), SymWanda(side="output"), RIA(), StochRIA())
_UNSEEN_LAYERS = ("first.weight", "middle.weight")
TOLD = (9 + 4) + (36 + 6) + (24 + 8)
"""Inputs and outputs of the two convolutions and the hidden layer."""


@pytest.fixture
def setting() -> Setting:
    return Setting(batch_size=4)


def fedp3(setting: Setting, **options: Any) -> FedP3:
    given: dict[str, Any] = {
        "layers": parse_layers("lowerb"),
        "pruning": GlobalPruning(keep=0.5, criterion=Wanda()),
        "calibration": Calibration(),
        "stepsize": 0.1,
        "local_steps": 2,
        "fraction_evaluate": 0.0,
    }
    return FedP3(groups=setting.groups, **{**given, **options})


def run(setting: Setting, strategy: FedP3, rounds: int, fast: Any = "require") -> FedP3:
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast, serialize=fast == "never")
    strategy.start(grid, setting.start, num_rounds=rounds)
    return strategy


def known(strategy: FedP3) -> Tensor:
    assert strategy.gathering is not None
    assert strategy.gathering.means is not None
    return strategy.gathering.means


def activations_of(setting: Setting, client: int, x: Tensor) -> dict[str, ActivationStatistics]:
    """By plain forward passes of the module with x in it, layer by layer."""
    module, features = setting.module, setting.objectives[client].examples.tensors[0]  # type: ignore[index]
    arrays = setting.groups.layout.unflatten(x)
    found = {}
    values = features
    for name, layer in module.named_children():
        own = {key: arrays[f"{name}.{key}"] for key, _ in layer.named_parameters()}
        if f"{name}.weight" in arrays:
            rows = values
            if isinstance(layer, torch.nn.Conv2d):
                rows = torch.nn.functional.unfold(values, layer.kernel_size).transpose(1, 2)  # type: ignore[arg-type]
            found[f"{name}.weight"] = ActivationStatistics.of(
                rows, arrays[f"{name}.weight"].flatten(1), samples=len(features)
            )
        with torch.no_grad():
            values = torch.func.functional_call(layer, own, values)
    return found


def received(strategy: FedP3, x: Tensor, round: int) -> dict[int, Tensor]:
    """The model as each client gets it."""
    return {
        client: x if assignment.point is None else assignment.point
        for assignment in strategy.plan(round)
        for client in assignment.partition_ids.tolist()
    }


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.spec)
@pytest.mark.parametrize("every", [1, 3])
def test_the_fast_path_and_messages_give_the_same_bits_and_bytes(
    setting: Setting, criterion: Any, every: int
) -> None:
    options = {
        "pruning": GlobalPruning(keep=0.4, criterion=criterion),
        "calibration": Calibration(every=every),
        "sampling": NiceSampling(cohort_size=6),
    }
    batched = run(setting, fedp3(setting, **options), 5)
    by_message = run(setting, fedp3(setting, **options), 5, "never")
    assert torch.equal(batched.x, by_message.x)
    assert torch.equal(known(batched), known(by_message))
    assert batched.bytes == by_message.bytes
    magnitude = {"pruning": GlobalPruning(keep=0.4), "calibration": None}
    assert not torch.equal(batched.x, run(setting, fedp3(setting, **options | magnitude), 5).x)


def test_clients_tell_of_the_model_they_received_and_the_plain_mean_is_used(
    setting: Setting,
) -> None:
    strategy = fedp3(setting)
    run(setting, strategy, 1)
    first = fedp3(setting)
    first.set_up(setting.start, CohortGrid(setting.app, num_clients=CLIENTS))
    models = received(first, setting.x, 1)
    told = [activations_of(setting, client, models[client]) for client in range(CLIENTS)]
    statistic = SquaredActivations(groups=setting.groups)
    expected = torch.cat(
        [
            torch.stack(
                [
                    getattr(one[entry.name], f"{side}_squares") / one[entry.name].samples
                    for one in told
                ]
            ).mean(0)
            for entry in statistic.entries
            for side in ("input", "output")
        ]
    )
    assert expected.shape == (TOLD,)
    torch.testing.assert_close(known(strategy).double(), expected, rtol=1e-5, atol=1e-7)


def test_masks_are_the_criterions_from_the_second_round_on(setting: Setting) -> None:
    """Before anything was told they are by magnitude; then those of `Calibrated`."""
    strategy = fedp3(setting)
    strategy.set_up(setting.start, CohortGrid(setting.app, num_clients=CLIENTS))
    plain = GlobalPruning(keep=0.5)
    for client, model in received(strategy, setting.x, 1).items():
        own = setting.groups.expand(strategy.assigned(1)[client])
        mask = plain.mask(setting.x, setting.groups, 0.5) | own
        assert torch.equal(model, torch.where(mask, setting.x, 0.0)), client
    run(setting, strategy, 1)
    statistics = SquaredActivations(groups=setting.groups).statistics(known(strategy))
    criterion = Calibrated(criterion=Wanda(), statistics=statistics, fallback=Magnitude())
    law = GlobalPruning(keep=0.5, criterion=criterion)
    mask = law.mask(strategy.x, setting.groups, 0.5)
    assert not torch.equal(mask, plain.mask(strategy.x, setting.groups, 0.5))
    for client, model in received(strategy, strategy.x, 2).items():
        own = setting.groups.expand(strategy.assigned(2)[client])
        assert torch.equal(model, torch.where(mask | own, strategy.x, 0.0)), client


def test_telling_costs_its_numbers_and_nothing_else(setting: Setting) -> None:
    rounds, every = 7, 3
    options = {"calibration": Calibration(every=every)}
    telling = run(setting, fedp3(setting, **options), rounds)
    silent = run(setting, fedp3(setting, pruning=GlobalPruning(keep=0.5), calibration=None), rounds)
    times = len(range(0, rounds, every))
    more = telling.bytes.uplink - silent.bytes.uplink - times * CLIENTS * 4 * TOLD
    # A longer vector's length may take a byte more in its frame.
    assert 0 <= more <= times * CLIENTS


def test_between_tellings_the_last_one_counts(setting: Setting) -> None:
    strategy = fedp3(setting, calibration=Calibration(every=3))
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    found = []

    for _ in range(6):
        strategy.start(grid, setting.start if not strategy.round else strategy.arrays, num_rounds=1)
        found.append(known(strategy).clone())
    assert [torch.equal(a, b) for a, b in pairwise(found)] == [*(True, True, False, True, True)]


def test_a_resumed_run_goes_on_with_what_was_told(setting: Setting, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calibration": Calibration(every=4)}
    whole = run(setting, fedp3(setting, **options), 7)
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    fedp3(setting, **options).start(
        grid, setting.start, num_rounds=3, checkpoints=tmp_path, checkpoint_every=3
    )
    resumed = fedp3(setting, **options)
    resumed.start(
        CohortGrid(setting.app, num_clients=CLIENTS),
        setting.start,
        num_rounds=7,
        resume=tmp_path,
    )
    assert torch.equal(resumed.x, whole.x)
    assert torch.equal(known(resumed), known(whole))
    other = fedp3(setting, calibration=Calibration(every=5))
    with pytest.raises(ValueError, match="calibration"):
        other.start(
            CohortGrid(setting.app, num_clients=CLIENTS),
            setting.start,
            num_rounds=7,
            resume=tmp_path,
        )


def test_under_faults_those_who_answered_are_averaged(setting: Setting) -> None:
    faults = Faults(lose_reply=0.3, duplicate_reply=0.2, delay_reply=0.1, wipe_state=0.2)
    found = []
    for _ in range(2):
        strategy = fedp3(setting)
        grid = FaultyGrid(setting.app, num_clients=CLIENTS, faults=faults)
        strategy.start(grid, setting.start, num_rounds=12)
        found.append(strategy)
    assert grid.happened["lose_reply"] > 10
    assert torch.equal(known(found[0]), known(found[1]))
    assert bool((known(found[0]) >= 0).all())
    assert bool(known(found[0]).any())


def test_a_robust_rule_guards_what_is_told_too(setting: Setting) -> None:
    """One client has images a thousand times too bright, and so activations."""
    images, labels = setting.objectives[0].examples.tensors  # type: ignore[misc]
    honest = known(run(setting, fedp3(setting), 1))
    setting.objectives[0] = TorchObjective(
        module=setting.module, loss=torch.nn.CrossEntropyLoss(), data=(1000 * images, labels)
    )
    misled = known(run(setting, fedp3(setting), 1))
    guarded = known(run(setting, fedp3(setting, aggregator=Median()), 1))
    seen = honest > 1e-3
    assert float((misled / honest)[seen].median()) > 1e3
    assert float((guarded / honest)[seen].max()) < 10


def gathering(setting: Setting, criterion: Any) -> Gathering:
    found = fedp3(setting, pruning=GlobalPruning(keep=0.5, criterion=criterion)).gathering
    assert found is not None
    return found


@pytest.mark.parametrize("criterion", [*CRITERIA, RIA(exponent=3.0)], ids=lambda one: one.spec)
def test_enormous_numbers_end_no_round(setting: Setting, criterion: Any) -> None:
    """What one client can tell and no check of the wire refuses."""
    found = gathering(setting, criterion)
    told = torch.ones(CLIENTS, TOLD)
    told[0, ::3] = 3e38
    found.follow(found.mean(told, torch.arange(CLIENTS)))
    mask = found.law.mask(setting.x, setting.groups, 0.5)
    assert int(mask.sum()) < len(mask)


def test_the_mean_is_that_of_clients_whatever_their_order(setting: Setting) -> None:
    found = gathering(setting, Wanda())
    told = torch.rand(5, TOLD, generator=torch.Generator().manual_seed(0)) ** 20
    ids = torch.tensor([40, 3, 71, 0, 33])
    order = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(found.mean(told, ids), found.mean(told[order], ids[order]))
    torch.testing.assert_close(found.mean(told, ids), told.mean(0))


class Unseen(nn.Module):
    """Uses its first layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.functional.linear(images[:, 0, 0], self.first.weight, self.first.bias)
        out: Tensor = self.head(torch.tanh(self.middle(torch.tanh(hidden))))
        return out


def test_a_layer_of_which_nothing_is_told_is_pruned_by_magnitude(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Unseen()
    setting.module, setting.groups = module, layer_groups(module)
    setting.objectives = [
        TorchObjective(module=module, loss=torch.nn.CrossEntropyLoss(), data=one.examples.tensors)  # type: ignore[arg-type]
        for one in setting.objectives
    ]
    strategy = run(setting, fedp3(setting), 2)
    assert caplog.text.count("clients told no activations of first.weight") == 1
    assert strategy.gathering is not None
    mask = strategy.gathering.law.mask(strategy.x, setting.groups, 0.5)
    plain = GlobalPruning(keep=0.5).mask(strategy.x, setting.groups, 0.5)
    first, middle = (e.span for e in setting.groups.entries if e.name in _UNSEEN_LAYERS)
    assert torch.equal(mask[first], plain[first])
    assert not torch.equal(mask[middle], plain[middle])


def test_the_server_may_ask_for_nothing_that_makes_no_sense(setting: Setting) -> None:
    strategy = fedp3(setting)
    strategy.set_up(setting.start, CohortGrid(setting.app, num_clients=CLIENTS))
    asked = strategy.plan(1)[0]
    constants = asked.constants_of(0)
    assert rule_of(constants, asked.spec, setting.groups).activations is not None
    plain = asked.spec.rpartition("/")[0]
    assert rule_of(constants, f"{plain}/squares:9999", setting.groups).activations is not None
    for norm in ("nan", "-1", "0", "1e-320", "", "x"):
        with pytest.raises(ValueError, match=r"max_norm|float"):
            rule_of(constants, f"{plain}/squares:{norm}", setting.groups)
    for place in (3, -1):
        for wrong in (inf, -inf, nan, -2.0):
            changed = [*constants]
            changed[place] = wrong
            with pytest.raises(ValueError, match="the server asks for layers"):
                rule_of(tuple(changed), asked.spec, setting.groups)


def ldp(setting: Setting, *, norm: float = 5.0, layers: str = "lowerb", every: int = 2) -> LDPFedP3:
    return LDPFedP3(
        groups=setting.groups,
        layers=parse_layers(layers),
        pruning=GlobalPruning(keep=0.5, criterion=Wanda()),
        calibration=Calibration(every=every, max_norm=norm),
        stepsize=0.1,
        local_steps=2,
        fraction_evaluate=0.0,
    )


@pytest.mark.parametrize(("layers", "fast"), [("opu3", "require"), ("lowerb", "never")])
def test_a_private_client_is_charged_one_release_more(layers: str, fast: str) -> None:
    pytest.importorskip("opacus")
    setting = Setting()
    privacy = Privacy(max_grad_norm=1.0, noise_multiplier=2.0, simulated_seed=0)
    strategies = []
    for how in (fast, "never"):
        strategy = ldp(setting, layers=layers)
        strategy.start(grid_of(setting, privacy, fast=how), setting.start, num_rounds=3)
        for client in range(CLIENTS):
            # Two local steps in each of three rounds, and activations in rounds 1 and 3.
            assert strategy.accounts.ledger(client) == Ledger().charge(
                noise_multiplier=2.0, sample_rate=1.0, steps=3 * 2 + 2
            )
        strategies.append(strategy)
    one, other = strategies
    assert torch.equal(one.x, other.x)
    assert torch.equal(known(one), known(other))
    assert one.bytes == other.bytes


def test_where_budgets_end_nobody_pays_for_a_round_that_others_cannot_pay() -> None:
    """Two steps and a telling: a client with three releases left, beside one with two."""
    pytest.importorskip("opacus")
    setting = Setting()

    def budget(releases: int) -> Budget:
        spent = Ledger().charge(noise_multiplier=2.0, sample_rate=1.0, steps=releases)
        return Budget(epsilon=spent.epsilon(1e-5) * (1 + 1e-9), delta=1e-5)

    def client(context: Context) -> FedP3Client:
        partition = int(context.node_config["partition-id"])
        privacy = Privacy(
            max_grad_norm=1.0,
            noise_multiplier=2.0,
            simulated_seed=0,
            budget=budget({0: 3, 1: 2}.get(partition, 9)),
        )
        return FedP3Client(
            context, objective=setting.objectives[partition], groups=setting.groups, privacy=privacy
        )

    strategies = []
    for fast in ("require", "never"):
        strategy = ldp(setting, layers="opu3")
        grid = CohortGrid(client_app(client), num_clients=CLIENTS, fast=fast)  # type: ignore[arg-type]
        strategy.start(grid, setting.start, num_rounds=1)
        assert strategy.participants == CLIENTS - 1
        strategies.append(strategy)
    one, other = strategies
    assert torch.equal(one.x, other.x)
    assert torch.equal(known(one), known(other))
    assert [one.accounts.ledger(0).releases, one.accounts.ledger(2).releases] == [3, 3]


def test_a_telling_that_nobody_heard_of_is_charged_once() -> None:
    """All replies of a round are lost, a node forgets everything, and the round comes again."""
    pytest.importorskip("opacus")
    setting = Setting()
    privacy = Privacy(max_grad_norm=1.0, noise_multiplier=2.0, simulated_seed=0)
    app = grid_of(setting, privacy).app
    grid = FaultyGrid(app, num_clients=CLIENTS, faults=Faults())
    strategy, arrays, config = ldp(setting, every=1), setting.start, ConfigRecord()
    for faults in (Faults(), Faults(lose_reply=1.0), Faults()):
        grid.faults = faults
        replies = list(grid.send_and_receive(strategy.configure_train(1, arrays, config, grid)))
        changed, _ = strategy.aggregate_train(1, replies)
        if changed is None:
            grid.wipe(list(grid.contexts)[3])
        else:
            arrays = changed
    assert strategy.round == 2
    found = [strategy.accounts.ledger(client).releases for client in range(CLIENTS)]
    assert found == [3 * (2 + 1)] * CLIENTS


def test_without_noise_and_bound_it_tells_what_others_tell() -> None:
    pytest.importorskip("opacus")
    setting = Setting()
    privacy = Privacy(max_grad_norm=float("inf"), noise_multiplier=0.0, simulated_seed=0)
    private = ldp(setting, norm=float("inf"))
    private.start(grid_of(setting, privacy), setting.start, num_rounds=1)
    plain = run(setting, fedp3(setting, trained="assigned"), 1)
    torch.testing.assert_close(known(private), known(plain), rtol=1e-6, atol=0)


def test_a_norm_without_end_is_refused_where_noise_is_a_multiple_of_it() -> None:
    pytest.importorskip("opacus")
    setting = Setting()
    privacy = Privacy(max_grad_norm=1.0, noise_multiplier=2.0, simulated_seed=0)
    strategy = ldp(setting, norm=float("inf"))
    with pytest.raises(AllClientsFailed, match="give Calibration a finite max_norm"):
        strategy.start(grid_of(setting, privacy, fast="never"), setting.start, num_rounds=1)


def refusals(setting: Setting) -> Sequence[tuple[dict[str, Any], str]]:
    plain = GlobalPruning(keep=0.5)
    hides = MessagePrivacy(max_norm=1.0, noise_multiplier=1.0, simulated_seed=0)
    return (
        ({"calibration": None}, "pruning by wanda needs activations: give calibration"),
        ({"pruning": plain}, "calibration: pruning by magnitude needs no activations"),
        ({"pruning": OrderedPruning(keep=0.5)}, "calibration: pruning by ordered needs no"),
        ({"pruning": None}, "calibration: pruning by magnitude needs no activations"),
        ({"message_privacy": hides}, "is no such move"),
        ({"max_update_norm": 1.0}, "is no such move"),
        ({"layers": None}, "nothing is pruned where clients have all layers"),
        ({"pruning": GlobalPruning(criterion=Wanda())}, "nothing is pruned"),
        ({"pruning": GlobalPruning(criterion=Wanda(), keep=(1.0,) * 8)}, "nothing is pruned"),
    )


def test_what_does_not_go_together_is_refused(setting: Setting) -> None:
    for options, why in refusals(setting):
        with pytest.raises(ValueError, match=why):
            fedp3(setting, **options)
    for wrong in ({"every": 0}, {"max_norm": 0.0}, {"max_norm": 1e-320}, {"max_norm": nan}):
        with pytest.raises(ValueError, match="="):
            Calibration(**wrong)  # type: ignore[arg-type]


def test_a_client_that_hides_its_messages_tells_nothing(setting: Setting) -> None:
    hides = MessagePrivacy(max_norm=1.0, noise_multiplier=1.0, simulated_seed=0)

    def client(context: Context) -> FedP3Client:
        partition = int(context.node_config["partition-id"])
        return FedP3Client(
            context,
            objective=setting.objectives[partition],
            groups=setting.groups,
            message_privacy=hides,
        )

    grid = CohortGrid(client_app(client), num_clients=CLIENTS, fast="never")
    with pytest.raises(AllClientsFailed, match="the server asks for activations"):
        fedp3(setting).start(grid, setting.start, num_rounds=1)
