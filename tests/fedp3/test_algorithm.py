from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedstrategies.fedp3 import Downlink, FedP3Rule, LocalTraining, PersonalHead
from fedstrategies.objectives import BatchedObjective, TorchObjective
from fedstrategies.pruning import GlobalPruning, OrderedDropout, UniformPruning
from fedstrategies.random import Purpose, client_keys, derived_keys
from fedstrategies.scafflix.baseline_rules import FedAvgRule
from tests.fedp3.setting import CLIENTS, Setting

IDS = torch.arange(CLIENTS)
KEYS = client_keys(0, 1, IDS, Purpose.CLIENT)
GAMMA = 0.1


@pytest.fixture
def setting() -> Setting:
    return Setting(batch_size=4)


def batched(setting: Setting) -> BatchedObjective:
    return TorchObjective.stack(setting.objectives)


def rule(
    setting: Setting, bits: tuple[bool, ...], *, keep: float = 1.0, **options: object
) -> FedP3Rule:
    training = {k: v for k, v in options.items() if k in ("max_norm", "pruning")}
    rest = {k: v for k, v in options.items() if k not in training}
    return FedP3Rule(
        downlink=Downlink(groups=setting.groups, assigned=bits, keep=keep),
        training=LocalTraining(stepsize=GAMMA, **training),  # type: ignore[arg-type]
        **{"local_steps": (3,) * CLIENTS, **rest},  # type: ignore[arg-type]
    )


def test_a_client_with_all_layers_does_what_fedavg_does_bit_for_bit(setting: Setting) -> None:
    fedavg = FedAvgRule(local_steps=3, gamma=(GAMMA,) * CLIENTS)
    expected, losses = fedavg.step({}, setting.x, batched(setting), KEYS)
    for trained in ("all", "assigned"):
        mine = rule(setting, (True,) * 4, trained=trained)
        found, first = mine.step({}, setting.x, batched(setting), KEYS)
        assert torch.equal(found.dense(), expected.dense())
        assert torch.equal(first, losses)


def by_hand(setting: Setting, point: Tensor, moves: Tensor, client: int, steps: int) -> Tensor:
    draws = derived_keys(KEYS[client : client + 1], Purpose.MINIBATCH)
    for step in range(steps):
        _, gradient = setting.objectives[client].value_and_gradient(
            point, key=derived_keys(draws, step)
        )
        point = torch.where(moves, point - GAMMA * gradient, point)
    return point


@pytest.mark.parametrize("trained", ["all", "assigned"])
def test_what_was_pruned_stays_away_and_only_own_layers_are_sent(
    setting: Setting, trained: str
) -> None:
    bits = (False, True, False, True)
    mine = rule(setting, bits, keep=0.5, trained=trained)
    mask = GlobalPruning(keep=0.5).mask(setting.x, setting.groups, 0.5)
    point, _ = mine.downlink.split(setting.x, mask)
    own = setting.groups.expand(torch.tensor(bits))
    biases = torch.ones(setting.groups.dimension, dtype=torch.bool)
    for entry in setting.groups.entries:
        biases[entry.span] = not entry.is_weight
    moves = own if trained == "assigned" else own | mask | biases
    found, _ = mine.step({}, point, batched(setting), KEYS)
    assert found.dimension == int(own.sum())
    for client in range(CLIENTS):
        expected = by_hand(setting, point, moves, client, 3)
        torch.testing.assert_close(found.dense()[client], expected[own], rtol=1e-6, atol=1e-7)
        assert not bool(expected[~moves & ~mask & ~own & ~biases].any())


def test_clients_may_take_different_numbers_of_steps(setting: Setting) -> None:
    steps = (1, 4, 2, 3, 1, 1, 5, 2)
    mine = rule(setting, (True,) * 4, local_steps=steps)
    found, losses = mine.step({}, setting.x, batched(setting), KEYS)
    for client, count in enumerate(steps):
        alone = rule(setting, (True,) * 4, local_steps=(count,))
        objective = setting.objectives[client].as_batch
        expected, loss = alone.step({}, setting.x, objective, KEYS[client : client + 1])
        assert torch.equal(found.dense()[client], expected.dense()[0])
        assert torch.equal(losses[client], loss[0])
    some = torch.tensor([1, 6])
    part, _ = mine.step({}, setting.x, batched(setting), KEYS[some], clients=some)
    assert torch.equal(part.dense(), found.dense()[some])


@pytest.mark.parametrize("pruning", [UniformPruning(q=0.3), OrderedDropout(q=0.3)])
def test_local_pruning_moves_only_what_it_leaves(setting: Setting, pruning: object) -> None:
    mine = rule(setting, (True,) * 4, local_steps=(1,) * CLIENTS, pruning=pruning)
    found, _ = mine.step({}, setting.x, batched(setting), KEYS)
    masks = pruning.masks(setting.groups, step=0, keys=KEYS)  # type: ignore[attr-defined]
    moved = found.dense() != setting.x
    assert not bool((moved & ~masks).any())
    assert bool(moved.any(dim=1).all())
    draws = derived_keys(derived_keys(KEYS[2:3], Purpose.MINIBATCH), 0)
    _, gradient = setting.objectives[2].value_and_gradient(setting.x * masks[2], key=draws)
    torch.testing.assert_close(
        found.dense()[2], setting.x - GAMMA * gradient * masks[2], rtol=1e-6, atol=1e-7
    )


def test_gradients_are_scaled_down_to_the_norm(setting: Setting) -> None:
    one = {"local_steps": (1,) * CLIENTS}
    mine = rule(setting, (True,) * 4, max_norm=1e-3, **one)
    found, _ = mine.step({}, setting.x, batched(setting), KEYS)
    lengths = (found.dense() - setting.x).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((CLIENTS,), GAMMA * 1e-3), rtol=1e-2, atol=0)
    high = rule(setting, (True,) * 4, max_norm=1e6, **one)
    plain = rule(setting, (True,) * 4, **one)
    assert torch.equal(
        high.step({}, setting.x, batched(setting), KEYS)[0].dense(),
        plain.step({}, setting.x, batched(setting), KEYS)[0].dense(),
    )


def test_a_personal_head_moves_the_classifier_only(setting: Setting) -> None:
    head = PersonalHead(steps=20, stepsize=0.2)
    objective = setting.objectives[4]
    tuned = head.tuned(setting.x, objective, setting.groups, KEYS[4:5])
    classifier = torch.zeros(setting.groups.dimension, dtype=torch.bool)
    for part in setting.groups.groups[setting.groups.classifier].slices:
        classifier[part] = True
    moved = tuned != setting.x
    assert bool(moved.any())
    assert not bool((moved & ~classifier).any())
    assert float(objective.value(tuned)) < float(objective.value(setting.x))


def test_impossible_settings_are_refused(setting: Setting) -> None:
    with pytest.raises(ValueError, match="stepsize = 0 is not positive"):
        LocalTraining(stepsize=0)
    with pytest.raises(ValueError, match="max_norm = 0 is not positive"):
        LocalTraining(stepsize=1.0, max_norm=0)
    with pytest.raises(ValueError, match="personal head: steps = 0"):
        PersonalHead(steps=0, stepsize=1.0)
