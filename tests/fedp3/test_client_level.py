"""Privacy of whole clients: what one of them may move, and the noise that hides it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

from fedstrategies.compressors import TopK
from fedstrategies.efbv import EFBV
from fedstrategies.engines import CohortGrid
from fedstrategies.fedp3 import CapacityLayers, FedP3, FedP3Client, Weighted, parse_layers
from fedstrategies.flower import client_app
from fedstrategies.privacy import Ledger, MessagePrivacy, Privacy, PrivacyError, composed_epsilon
from fedstrategies.scafflix import FedAvg, Scafflix
from fedstrategies.sppm import SPPM
from tests.fedp3.setting import CLIENTS, Setting

pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")

NORM = 0.05


@pytest.fixture
def setting() -> Setting:
    return Setting(batch_size=4)


def fedp3(setting: Setting, privacy: MessagePrivacy | None, **options: Any) -> FedP3:
    return FedP3(
        groups=setting.groups,
        message_privacy=privacy,
        **{"stepsize": 0.3, "local_steps": 3, **options},
    )


def simulated(sigma: float, norm: float = NORM, seed: int | None = 0) -> MessagePrivacy:
    return MessagePrivacy(max_norm=norm, noise_multiplier=sigma, simulated_seed=seed)


def run(setting: Setting, strategy: FedP3, rounds: int = 3, fast: Any = "auto") -> FedP3:
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast)
    strategy.fraction_evaluate = 0.0
    strategy.start(grid, setting.start, num_rounds=rounds)
    return strategy


def test_a_loose_norm_and_no_noise_change_nothing_but_rounding(setting: Setting) -> None:
    options = {"layers": parse_layers("opu2")}
    plain = run(setting, fedp3(setting, None, **options))
    loose = run(setting, fedp3(setting, simulated(0.0, 1e6), **options))
    torch.testing.assert_close(loose.x, plain.x, rtol=1e-5, atol=1e-6)


def test_one_client_moves_the_sum_by_at_most_the_norm(setting: Setting) -> None:
    """Zero out each client in turn, as the neighbouring relation does."""
    layers = parse_layers("opu2")
    strategy = fedp3(setting, simulated(0.0), layers=layers, fraction_evaluate=0.0)
    run(setting, strategy, rounds=1)
    assigned = strategy.assigned(1)
    senders = setting.groups.expand(assigned.sum(dim=0)).double()
    base = (strategy.x - setting.x).double() * senders
    for client in range(CLIENTS):
        other = Setting(batch_size=4)
        own = setting.groups.expand(assigned[client])
        # A client whose gradients are zero sends the model back.
        silent = other.objectives[client]
        silent.loss = lambda output, target: 0.0 * output.sum()  # type: ignore[assignment]
        without = run(other, fedp3(other, simulated(0.0), layers=layers), rounds=1)
        change = base - (without.x - other.x).double() * senders
        assert 0.5 * NORM < float(change.norm()) <= NORM * (1 + 1e-4)
        assert not bool(change[~own].abs().max() > 1e-6)


def test_the_noise_has_its_scale_in_every_layer(setting: Setting) -> None:
    sigma, layers = 4.0, parse_layers("opu2")
    noisy = run(setting, fedp3(setting, simulated(sigma), layers=layers), rounds=1)
    clean = run(setting, fedp3(setting, simulated(0.0), layers=layers), rounds=1)
    for position, group in enumerate(setting.groups):
        senders = int(noisy.assigned(1)[:, position].sum())
        part = torch.cat([(noisy.x - clean.x)[where] for where in group.slices]).double()
        scale = sigma * NORM / senders
        assert abs(float(part.square().mean()) / scale**2 - 1) < 6 * (2 / len(part)) ** 0.5


def test_the_same_seed_gives_the_same_model_and_a_real_secret_does_not(setting: Setting) -> None:
    private = simulated(1.0)
    first = run(setting, fedp3(setting, private), fast="require")
    assert torch.equal(run(setting, fedp3(setting, private), fast="never").x, first.x)
    secret = MessagePrivacy(max_norm=NORM, noise_multiplier=1.0)
    others = [run(setting, fedp3(setting, secret)).x for _ in range(2)]
    assert not torch.equal(*others)
    assert not torch.equal(others[0], first.x)


def test_rounds_do_not_share_noise_even_if_the_sum_is_the_same() -> None:
    private, total = simulated(1.0), torch.ones(50)
    secret = private.new_secret()
    draws = [private.noise(secret, round, total) for round in (1, 2)]
    assert not torch.equal(*draws)
    assert torch.equal(draws[0], private.noise(secret, 1, total))
    assert not torch.equal(draws[0], private.noise(secret, 1, total + 1e-6))


def test_every_round_has_noise_of_its_own_and_idle_layers_have_none(setting: Setting) -> None:
    smallest = CapacityLayers(capacity=4 * int(setting.groups.sizes[-1]))
    options = {"layers": smallest, "stepsize": 1e-12}
    steps = []
    for rounds in (1, 2):
        strategy = run(setting, fedp3(setting, simulated(1.0), **options), rounds=rounds)
        steps.append(strategy.x - setting.x)
    own = torch.zeros(setting.groups.dimension, dtype=torch.bool)
    for part in setting.groups.groups[-1].slices:
        own[part] = True
    assert not bool(steps[1][~own].any()), "nobody sent the other layers"
    second = steps[1] - steps[0]
    assert bool(second[own].any())
    assert not torch.allclose(second[own], steps[0][own], atol=1e-4)


def test_epsilon_grows_with_the_rounds(setting: Setting) -> None:
    strategy = run(setting, fedp3(setting, simulated(8.0)), rounds=4)
    assert strategy.client_level_epsilon(1e-5) == composed_epsilon(((8.0, 1.0, 4),), 1e-5)
    run_on = run(setting, fedp3(setting, simulated(8.0)), rounds=8)
    assert run_on.client_level_epsilon(1e-5) > strategy.client_level_epsilon(1e-5)
    with pytest.raises(ValueError, match="there is no message_privacy"):
        fedp3(setting, None).client_level_epsilon(1e-5)


def test_where_no_bound_remains_it_is_refused(setting: Setting) -> None:
    private = simulated(1.0)
    with pytest.raises(ValueError, match="not for EFBV: error feedback puts what clipping took"):
        EFBV(compressor=TopK(k=1), stepsize=0.1, message_privacy=private)
    with pytest.raises(ValueError, match="not for Scafflix: its control variates add up"):
        Scafflix(message_privacy=private)
    for strategy in (SPPM, FedAvg):
        with pytest.raises(ValueError, match="its messages are not moves of the model; FedP3"):
            strategy(message_privacy=private)
    with pytest.raises(ValueError, match="aggregation weighted weights clients"):
        fedp3(setting, private, aggregation=Weighted())
    for options in ({"norm": 0.0}, {"norm": float("inf")}, {"sigma": -1.0}):
        with pytest.raises(PrivacyError, match="must be"):
            simulated(**{"sigma": 1.0, **options})


# ---------------------------------------------------------------- noise on the client


def hiding(setting: Setting, privacy: MessagePrivacy, **grid: Any) -> CohortGrid:
    def client(context: Context) -> FedP3Client:
        partition = int(context.node_config["partition-id"])
        objective = setting.objectives[partition]
        return FedP3Client(
            context, objective=objective, groups=setting.groups, message_privacy=privacy
        )

    return CohortGrid(client_app(client), num_clients=CLIENTS, **grid)


def test_clients_clip_and_hide_their_own_messages(setting: Setting) -> None:
    """sigma = 0: the server's clipping and the client's are the same."""
    layers, results = parse_layers("opu2"), []
    for sigma in (0.0, 2.0):
        own = fedp3(setting, None, layers=layers)
        own.start(hiding(setting, simulated(sigma)), setting.start, num_rounds=1)
        results.append(own)
    clean, noisy = results
    torch.testing.assert_close(
        clean.x, run(setting, fedp3(setting, simulated(0.0), layers=layers), 1).x
    )
    for position, group in enumerate(setting.groups):
        senders = int(noisy.assigned(1)[:, position].sum())
        part = torch.cat([(noisy.x - clean.x)[where] for where in group.slices]).double()
        variance = (2.0 * NORM) ** 2 / senders
        assert abs(float(part.square().mean()) / variance - 1) < 6 * (2 / len(part)) ** 0.5


def test_hidden_messages_are_charged_and_survive_a_wiped_node(setting: Setting) -> None:
    private = simulated(3.0)
    strategy = fedp3(setting, None, fraction_evaluate=0.0)
    grid = hiding(setting, private)
    with pytest.raises(ValueError, match="client 0 hides its messages itself"):
        strategy.start(hiding(setting, private, fast="require"), setting.start, num_rounds=1)
    strategy = fedp3(setting, None, fraction_evaluate=0.0)
    strategy.start(grid, setting.start, num_rounds=3)
    once = Ledger().charge(noise_multiplier=3.0, sample_rate=1.0, steps=3)
    assert {strategy.accounts.ledger(i) for i in range(CLIENTS)} == {once}
    node = next(iter(grid.contexts))
    grid.contexts[node].state = RecordDict()
    strategy.start(grid, strategy.arrays, num_rounds=2)
    assert strategy.accounts.ledger(0).releases == 5
    assert float(strategy.accounts.epsilons(1e-5)[0]) == composed_epsilon(((3.0, 1.0, 5),), 1e-5)


def test_nothing_else_leaves_a_client_that_hides(setting: Setting) -> None:
    deployed = MessagePrivacy(max_norm=NORM, noise_multiplier=1.0)
    strategy = fedp3(setting, None)
    result = strategy.start(hiding(setting, deployed), setting.start, num_rounds=2)
    assert all("loss" not in metrics for metrics in result.train_metrics_clientapp.values())
    assert all("accuracy" not in found for found in result.evaluate_metrics_clientapp.values())
    shown = fedp3(setting, None).start(hiding(setting, simulated(1.0)), setting.start, num_rounds=2)
    assert all("accuracy" in found for found in shown.evaluate_metrics_clientapp.values())
    record = Privacy(max_grad_norm=1.0, noise_multiplier=1.0, simulated_seed=0)
    context = next(iter(hiding(setting, deployed).contexts.values()))
    with pytest.raises(ValueError, match=r"give privacy \(of records\) or message_privacy"):
        FedP3Client(
            context, objective=setting.objectives[0], privacy=record, message_privacy=deployed
        )
