"""Special cases and other forms of the same method, against loops written independently."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.objectives import LogisticRegression
from fedstrategies.scafflix.algorithm import (
    ScafflixRule,
    draw_local_steps,
    local_steps,
    weighted_mean,
)
from fedstrategies.scafflix.baseline_rules import FedAvgRule, FLIXRule
from tests.scafflix.setting import CLIENTS, DIMENSION, RANDOM, Setting

KEYS = torch.zeros(CLIENTS, dtype=torch.int64)
EVERYONE = torch.arange(CLIENTS)


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


def iterates(
    setting: Setting,
    alpha: tuple[float, ...],
    gamma: tuple[float, ...],
    steps: list[int],
    p: float,
) -> list[Tensor]:
    """x after each round, everyone taking part."""
    objective = setting.personal
    memory = {"h": torch.zeros(CLIENTS, DIMENSION, dtype=torch.float64)}
    weights = torch.tensor(alpha, dtype=torch.float64).square()
    weights = weights / torch.tensor(gamma, dtype=torch.float64)
    x, found = torch.zeros(DIMENSION, dtype=torch.float64), []
    for count in steps:
        rule = ScafflixRule(local_steps=count, p=p, gamma=gamma, alpha=alpha)
        payload, _ = rule.step(memory, x, objective, KEYS)
        x = weighted_mean(payload.dense(), weights, EVERYONE)
        rule.commit_(memory, payload, settlement=x)
        found.append(x)
    return found


def test_equal_steps_at_alpha_one_are_scaffnew(setting: Setting) -> None:
    """ProxSkip in its usual form: x^ = x - gamma (grad f - h), h += (p/gamma)(x_new - x^)."""
    p, gamma, steps = 0.3, 0.2, [4, 1, 7, 2, 3, 3, 1, 5]
    x = torch.zeros(CLIENTS, DIMENSION, dtype=torch.float64)
    h = torch.zeros_like(x)
    expected = []
    for count in steps:
        for _ in range(count):
            x = x - gamma * (setting.batch.value_and_gradient(x)[1] - h)
        mean = x.mean(dim=0)
        h = h + p / gamma * (mean - x)
        x = mean.expand(CLIENTS, -1)
        expected.append(mean)
    ones = (1.0,) * CLIENTS
    for ours, theirs in zip(
        iterates(setting, ones, (gamma,) * CLIENTS, steps, p), expected, strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_p_one_with_proportional_steps_is_gradient_descent_on_flix(setting: Setting) -> None:
    common = 0.4
    gamma = tuple(common * weight**2 for weight in RANDOM)
    found = iterates(setting, RANDOM, gamma, [1] * 15, 1.0)
    flix = setting.personal.flix(torch.tensor(RANDOM, dtype=torch.float64))
    x = torch.zeros(DIMENSION, dtype=torch.float64)
    for ours in found:
        x = x - common * flix.value_and_gradient(x)[1].mean(dim=0)
        assert torch.allclose(ours, x, rtol=0, atol=1e-12)


def test_the_form_on_the_flix_functions_gives_the_same_iterates(setting: Setting) -> None:
    """i-Scaffnew on F_i with gamma_i/alpha_i^2 and alpha_i h_i."""
    gamma = tuple(0.05 + 0.02 * i for i in range(CLIENTS))
    steps, p = [3, 1, 6, 2, 4], 0.3
    alpha = torch.tensor(RANDOM, dtype=torch.float64)
    flix = setting.personal.flix(alpha)
    scaled = (torch.tensor(gamma, dtype=torch.float64) / alpha.square()).unsqueeze(1)
    x = torch.zeros(CLIENTS, DIMENSION, dtype=torch.float64)
    h = torch.zeros_like(x)
    for count, ours in zip(steps, iterates(setting, RANDOM, gamma, steps, p), strict=True):
        for _ in range(count):
            x = x - scaled * (flix.value_and_gradient(x)[1] - h)
        mean = (x / scaled).sum(dim=0) / (1 / scaled).sum()
        h = h + p / scaled * (mean - x)
        x = mean.expand(CLIENTS, -1)
        assert torch.allclose(ours, mean, rtol=0, atol=1e-11)


def test_a_client_alone_gives_the_bits_of_the_batch(setting: Setting) -> None:
    rule = ScafflixRule(local_steps=3, p=0.3, gamma=(0.1,) * CLIENTS, alpha=RANDOM)
    draw = torch.Generator().manual_seed(1)
    memory = {"h": torch.randn(CLIENTS, DIMENSION, generator=draw, dtype=torch.float64)}
    x = torch.randn(DIMENSION, generator=draw, dtype=torch.float64)
    chosen = torch.tensor([1, 4, 6])
    before = memory["h"].clone()
    payload, losses = rule.step(memory, x, setting.personal, KEYS[:3], clients=chosen)
    assert torch.equal(memory["h"], before)
    settled = {"h": before.clone()}
    rule.commit_(settled, payload, clients=chosen, settlement=x)
    for place, index in enumerate(chosen.tolist()):
        member = setting.personal.members[index]
        alone = {"h": before[index : index + 1].clone()}
        one, loss = rule.row(index).step(alone, x, member.as_batch, KEYS[:1])
        assert torch.equal(one.dense()[0], payload.dense()[place])
        assert torch.equal(loss[0], losses[place])
        rule.row(index).commit_(alone, one, settlement=x)
        assert torch.equal(alone["h"][0], settled["h"][index])
    untouched = [i for i in range(CLIENTS) if i not in chosen.tolist()]
    assert torch.equal(settled["h"][untouched], before[untouched])


def test_mini_batches_differ_from_step_to_step_and_repeat_with_the_key() -> None:
    draw = torch.Generator().manual_seed(0)
    f_i = LogisticRegression(
        features=torch.randn(40, 4, generator=draw, dtype=torch.float64),
        labels=torch.sign(torch.randn(40, generator=draw, dtype=torch.float64)),
        batch_size=2,
    )
    rule = FedAvgRule(local_steps=2, gamma=(0.5,))
    x = torch.zeros(4, dtype=torch.float64)
    key = torch.tensor([7])
    sent = rule.step({}, x, f_i.as_batch, key)[0].dense()[0]
    assert torch.equal(sent, rule.step({}, x, f_i.as_batch, key)[0].dense()[0])
    assert not torch.equal(sent, rule.step({}, x, f_i.as_batch, key + 1)[0].dense()[0])
    first = FedAvgRule(local_steps=1, gamma=(0.5,)).step({}, x, f_i.as_batch, key)[0].dense()[0]
    again = FedAvgRule(local_steps=1, gamma=(0.5,)).step({}, first, f_i.as_batch, key)[0]
    assert not torch.equal(sent, again.dense()[0])


def test_flix_sends_the_gradient_of_its_function(setting: Setting) -> None:
    x = torch.full((DIMENSION,), 0.3, dtype=torch.float64, requires_grad=True)
    payload, losses = FLIXRule(alpha=RANDOM).step({}, x.detach(), setting.personal, KEYS)
    for index, (alpha, f_i) in enumerate(zip(RANDOM, setting.objectives, strict=True)):
        deployed = alpha * x + (1 - alpha) * setting.personal.local_optima()[index]
        margins = f_i.labels * (f_i.features @ deployed)
        value = torch.nn.functional.softplus(-margins).mean() + 0.25 * deployed @ deployed
        (slope,) = torch.autograd.grad(value, x)
        assert torch.allclose(payload.dense()[index], slope, rtol=1e-10, atol=1e-12)
        assert float(losses[index]) == pytest.approx(float(value.detach()))


def test_alpha_zero_in_the_list_is_never_divided_by(setting: Setting) -> None:
    rule = ScafflixRule(local_steps=2, p=0.5, gamma=(0.1,) * CLIENTS, alpha=(0.0, *RANDOM[1:]))
    memory = {"h": torch.zeros(CLIENTS, DIMENSION, dtype=torch.float64)}
    others = EVERYONE[1:]
    x = torch.zeros(DIMENSION, dtype=torch.float64)
    payload, _ = rule.step(memory, x, setting.personal, KEYS[1:], clients=others)
    rule.commit_(memory, payload, clients=others, settlement=x)
    assert bool(torch.isfinite(memory["h"]).all())


def test_the_number_of_local_steps_is_geometric() -> None:
    p, count = 0.3, 4000
    drawn = torch.tensor([draw_local_steps(p, seed=5, round=r) for r in range(1, count + 1)])
    assert int(drawn.min()) == 1
    for k in (1, 2, 3, 5):
        share = float((drawn == k).double().mean())
        expected = p * (1 - p) ** (k - 1)
        assert abs(share - expected) < 5 * (expected * (1 - expected) / count) ** 0.5
    assert float(drawn.double().mean()) == pytest.approx(1 / p, rel=0.05)
    assert draw_local_steps(p, seed=5, round=9) == draw_local_steps(p, seed=5, round=9)
    assert draw_local_steps(1.0, seed=5, round=9) == 1


def test_weighted_mean_is_normalised_over_those_that_answered() -> None:
    points = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    found = weighted_mean(points, torch.tensor([1.0, 3.0]).double(), torch.tensor([2, 40]))
    assert torch.allclose(found, torch.tensor([2.5, 3.0]).double())


def test_settling_needs_the_mean_of_the_round(setting: Setting) -> None:
    rule = ScafflixRule(local_steps=1, p=1.0, gamma=(0.1,), alpha=(1.0,))
    upload = Payload(dimension=2, values=Floats(torch.zeros(1, 2)))
    with pytest.raises(ValueError, match="mean of the round"):
        rule.commit_({"h": torch.zeros(1, 2)}, upload)


def test_alpha_below_one_needs_the_local_optima(setting: Setting) -> None:
    one = torch.ones(CLIENTS, dtype=torch.float64)
    x = torch.zeros(DIMENSION, dtype=torch.float64)
    with pytest.raises(ValueError, match="PersonalObjective"):
        local_steps(x, setting.batch, shift=None, gamma=one, alpha=0.5 * one, steps=1, keys=KEYS)
