"""LDP-FedP3: one release a local step, of the layers in L_i and nothing else."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch

from fedstrategies.fedp3 import (
    CapacityLayers,
    FedP3,
    LDPFedP3,
    PersonalHead,
    parse_layers,
)
from fedstrategies.flower import AllClientsFailed
from fedstrategies.privacy import Ledger, Privacy
from fedstrategies.pruning import GlobalPruning, UniformPruning
from fedstrategies.sampling import NiceSampling
from tests.fedp3.setting import SIZES, Setting, grid_of

pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")

STEP = 0.1


@pytest.fixture
def setting() -> Setting:
    return Setting()


def simulated(sigma: float, norm: float = 1.0, **options: Any) -> Privacy:
    return Privacy(max_grad_norm=norm, noise_multiplier=sigma, simulated_seed=0, **options)


def start(strategy: FedP3, setting: Setting, privacy: Privacy | None, rounds: int = 3) -> FedP3:
    strategy.fraction_evaluate = 0.0
    strategy.start(grid_of(setting, privacy), setting.start, num_rounds=rounds)
    return strategy


@pytest.mark.parametrize("layers", ["all", "lowerb", "opu2", "opr2"])
def test_without_noise_and_clipping_it_is_fedp3(setting: Setting, layers: str) -> None:
    options = {
        "groups": setting.groups,
        "layers": parse_layers(layers),
        "pruning": GlobalPruning(keep=0.7),
        "local_pruning": UniformPruning(q=0.5),
        "local_steps": 2,
        "stepsize": STEP,
    }
    plain = start(FedP3(**options, trained="assigned"), setting, None)
    private = start(LDPFedP3(**options), setting, simulated(0.0, inf))
    torch.testing.assert_close(private.x, plain.x, rtol=1e-5, atol=1e-6)
    assert not torch.equal(private.x, setting.x)
    noisy = start(LDPFedP3(**options), setting, simulated(1.0))
    assert float((noisy.x - plain.x).norm()) > 1e-2


def test_the_gradient_is_clipped_jointly_over_the_layers_that_are_sent(setting: Setting) -> None:
    """Against the sum over examples, each clipped by hand."""
    norm = 0.5
    for layers in ("lowerb", "opu2", "all"):
        choice = parse_layers(layers)
        strategy = LDPFedP3(groups=setting.groups, layers=choice, stepsize=1.0)
        grid = grid_of(setting, simulated(0.0, norm))
        strategy.start(grid, setting.start, num_rounds=1)
        for assignment in strategy.plan(1):
            for client in assignment.partition_ids.tolist():
                node = grid.clients[client]
                rule = node.rule(assignment.constants_of(0), assignment.spec)
                work = node.at_work(rule)
                _, gradient = work.value_and_gradient(setting.x)
                own = rule.downlink.own  # type: ignore[attr-defined]
                expected = torch.zeros_like(gradient)
                for row in range(SIZES[client]):
                    _, one = setting.objectives[client].at_rows(setting.x, torch.tensor([row]))
                    factor = min(1.0, norm / float(one[own].norm()))
                    expected += factor * one * own / SIZES[client]
                torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)


def test_noise_has_the_scale_of_the_mechanism_in_every_layer_sent(setting: Setting) -> None:
    sigma, norm = 3.0, 0.5
    options = {"groups": setting.groups, "layers": parse_layers("opu2"), "stepsize": 1.0}
    noisy = start(LDPFedP3(**options), setting, simulated(sigma, norm), rounds=1)
    clean = start(LDPFedP3(**options), setting, simulated(0.0, norm), rounds=1)
    difference = noisy.x - clean.x
    assigned = noisy.assigned(1)
    for position, group in enumerate(setting.groups):
        senders = assigned[:, position].nonzero().flatten().tolist()
        variance = sum((sigma * norm / SIZES[i]) ** 2 for i in senders) / len(senders) ** 2
        part = torch.cat([difference[where] for where in group.slices]).double()
        found = float(part.square().mean())
        slack = 6 * (2 / len(part)) ** 0.5
        assert abs(found / variance - 1) < slack, group.name


def test_each_local_step_is_one_release(setting: Setting) -> None:
    strategy = LDPFedP3(
        groups=setting.groups, layers=parse_layers("lowerb"), stepsize=STEP, local_steps=3
    )
    start(strategy, setting, simulated(4.0, expected_batch_size=4), rounds=5)
    for client, size in enumerate(SIZES):
        once = Ledger().charge(noise_multiplier=4.0, sample_rate=4 / size, steps=15)
        assert strategy.accounts.ledger(client) == once
    found = strategy.accounts.epsilons(1e-5)
    assert float(found.max()) == float(found[SIZES.index(min(SIZES))])


def test_whole_models_take_the_fast_path_and_parts_do_not(setting: Setting) -> None:
    options = {"groups": setting.groups, "stepsize": STEP, "local_steps": 2}
    results = []
    for fast in ("require", "never"):
        strategy = LDPFedP3(**options)
        strategy.start(grid_of(setting, simulated(2.0), fast=fast), setting.start, num_rounds=3)
        results.append(strategy.x)
    assert torch.equal(*results)
    parts = LDPFedP3(**options, layers=parse_layers("opu2"))
    with pytest.raises(ValueError, match="the fast path is required but not possible"):
        parts.start(grid_of(setting, simulated(2.0), fast="require"), setting.start, num_rounds=1)


def test_parts_never_take_the_fast_path_whatever_the_first_cohort_is(setting: Setting) -> None:
    """Seed 1: the first cohorts are of clients that have all layers."""
    layers = CapacityLayers(capacity=(10**6,) * 4 + (400,) * 4)
    options = {"layers": layers, "sampling": NiceSampling(cohort_size=1), "seed": 1}
    strategy = LDPFedP3(groups=setting.groups, stepsize=STEP, **options)
    grid = grid_of(setting, simulated(2.0), fast="require")
    with pytest.raises(ValueError, match="private clients release parts of their models"):
        strategy.start(grid, setting.start, num_rounds=1)


def test_the_noise_of_a_release_depends_on_the_layers_it_is_of(setting: Setting) -> None:
    """A node that is asked again at the same point and count for other layers draws anew."""
    private = simulated(2.0)
    clients = [
        grid_of(setting, private).clients[0].releasing(setting.groups.expand(torch.tensor(bits)))
        for bits in ((True, False, False, True), (False, True, False, True))
    ]
    keys = [client.streams(setting.x, 0) for client in clients]
    assert keys[0] != keys[1]


def test_a_client_that_is_not_private_is_refused(setting: Setting) -> None:
    strategy = LDPFedP3(groups=setting.groups, stepsize=STEP)
    with pytest.raises(ValueError, match="partition 0 is not private: it sent a model"):
        start(strategy, setting, None)


def test_what_is_trained_and_not_sent_is_refused(setting: Setting) -> None:
    head = PersonalHead(steps=1, stepsize=0.1)
    with pytest.raises(ValueError, match="personal_head: it is trained on private rows"):
        LDPFedP3(groups=setting.groups, personal_head=head)
    with pytest.raises(ValueError, match="trained: a private client trains what it releases"):
        LDPFedP3(groups=setting.groups, trained="all")
    plain = FedP3(groups=setting.groups, layers=parse_layers("opu2"), stepsize=STEP)
    grid = grid_of(setting, simulated(1.0), fast="never")
    with pytest.raises(AllClientsFailed, match="a private client trains what it releases"):
        plain.start(grid, setting.start, num_rounds=1)
    whole = FedP3(groups=setting.groups, stepsize=STEP, personal_head=head)
    grid = grid_of(setting, simulated(1.0))
    result = whole.start(grid, setting.start, num_rounds=1)
    assert not result.evaluate_metrics_clientapp, "a personal head would not be charged"
