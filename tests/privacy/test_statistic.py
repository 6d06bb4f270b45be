"""Private means of activations: their bound, their noise, and what is charged for them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedstrategies.objectives import TorchObjective
from fedstrategies.privacy import (
    Budget,
    BudgetSpent,
    Ledger,
    PrivacyError,
    PrivateObjective,
    simulated_secret,
)
from fedstrategies.privacy.noise import NoisePurpose, stream_key
from fedstrategies.pruning import SquaredActivations, layer_groups
from tests.privacy.clients import logistic, network, normal, private, start

pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def setting(size: int = 20) -> tuple[TorchObjective, Tensor]:
    objective = network(mlp(), size)  # type: ignore[no-untyped-call]
    return objective, start(objective)  # type: ignore[no-untyped-call]


def squares(objective: TorchObjective, *, max_norm: float = math.inf) -> SquaredActivations:
    return SquaredActivations(groups=layer_groups(objective.module), max_norm=max_norm)


def rows_of(objective: TorchObjective, x: Tensor) -> Tensor:
    """Each example by itself: shape (m, 10)."""
    features = objective.examples.take(None, torch.device("cpu"))[0]
    weight = objective.layout.unflatten(x)["0.weight"]
    return torch.cat([features.square(), (features @ weight.T).square()], 1)


def test_without_noise_it_is_the_mean_of_clipped_examples() -> None:
    objective, x = setting()
    rows = rows_of(objective, x)
    torch.testing.assert_close(
        objective.mean_statistic(x, squares(objective)), rows.mean(0), rtol=1e-12, atol=0
    )
    norm = float(rows.norm(dim=1).median())
    client: PrivateObjective = private(objective, noise_multiplier=0.0)  # type: ignore[no-untyped-call]
    found = client.mean_statistic(x, squares(objective, max_norm=norm))
    clipped = rows * (norm / rows.norm(dim=1, keepdim=True)).clamp(max=1)
    assert not torch.allclose(clipped.mean(0), rows.mean(0))
    torch.testing.assert_close(found, clipped.mean(0), rtol=1e-12, atol=0)


def test_one_example_moves_it_by_no_more_than_the_bound() -> None:
    objective, x = setting()
    features, targets = objective.examples.take(None, torch.device("cpu"))
    norm = 0.5
    wild = features.clone()
    wild[3] = 1e6
    other = TorchObjective(module=objective.module, loss=objective.loss, data=(wild, targets))
    gone = rows_of(objective, x)
    released = [
        private(one, noise_multiplier=0.0).mean_statistic(  # type: ignore[no-untyped-call]
            x, squares(objective, max_norm=norm)
        )
        for one in (objective, other)
    ]
    # Neighbours differ by one example's part set to zero: each is within C/m of that.
    clipped = gone * (norm / gone.norm(dim=1, keepdim=True)).clamp(max=1)
    without = (clipped.sum(0) - clipped[3]) / len(gone)
    for one in released:
        assert float((one - without).norm()) <= norm / len(gone) * (1 + 1e-9)
    assert float((released[1] - without).norm()) == pytest.approx(norm / len(gone))


def test_the_noise_has_the_stated_scale_and_is_charged() -> None:
    objective, x = setting()
    statistic = squares(objective, max_norm=2.0)
    client = private(objective, noise_multiplier=3.0, max_grad_norm=0.1)  # type: ignore[no-untyped-call]
    clean = private(objective, noise_multiplier=0.0).mean_statistic(x, statistic)  # type: ignore[no-untyped-call]
    found = torch.stack([client.mean_statistic(x, statistic) for _ in range(1000)])
    noise = (found - clean) / (3.0 * 2.0 / 20)
    assert bool((noise.mean(0).abs() < 4.5 / math.sqrt(1000)).all())
    assert bool(((noise.var(0) - 1).abs() < 4.5 * math.sqrt(2 / 1000)).all())
    assert client.ledger == Ledger().charge(noise_multiplier=3.0, sample_rate=1.0, steps=1000)


def test_a_sample_is_drawn_at_the_rate_of_the_gradients() -> None:
    objective, x = setting(40)
    statistic = squares(objective)
    client = private(objective, noise_multiplier=0.0, expected_batch_size=10)  # type: ignore[no-untyped-call]
    rows = rows_of(objective, x)
    found = torch.stack([client.mean_statistic(x, statistic) for _ in range(300)])
    assert client.ledger == Ledger().charge(noise_multiplier=0.0, sample_rate=0.25, steps=300)
    # Of a Poisson sample over B: unbiased, with variance q (1 - q) sum s_j^2 / B^2.
    spread = (0.25 * 0.75 * rows.square().sum(0) / 100 / 300).sqrt()
    assert bool(((found.mean(0) - rows.mean(0)).abs() < 4.5 * spread).all())


def test_one_question_has_one_answer_and_two_never_share_their_noise() -> None:
    objective, x = setting()

    def noise(number: int, point: Tensor, norm: float) -> Tensor:
        spent = Ledger().charge(noise_multiplier=2.0, sample_rate=1.0, steps=number)
        client = private(objective, ledger=spent)  # type: ignore[no-untyped-call]
        statistic = squares(objective, max_norm=norm)
        clean = private(objective, noise_multiplier=0.0).mean_statistic(point, statistic)  # type: ignore[no-untyped-call]
        return (client.mean_statistic(point, statistic) - clean) / norm

    first = noise(3, x, 2.0)
    assert torch.equal(first, noise(3, x, 2.0))
    for other in (noise(4, x, 2.0), noise(3, x + 1, 2.0), noise(3, x, 3.0)):
        assert float((other - first).abs().min()) > 1e-6
    # Gradients of the same norm at the same point and number: no stream is theirs.
    spent = Ledger().charge(noise_multiplier=2.0, sample_rate=1.0, steps=3)
    plain = private(objective, max_grad_norm=2.0, noise_multiplier=0.0)  # type: ignore[no-untyped-call]
    client = private(objective, max_grad_norm=2.0, ledger=spent)  # type: ignore[no-untyped-call]
    gradient = client.value_and_gradient(x)[1] - plain.value_and_gradient(x)[1]
    assert float((gradient[: len(first)] / 2.0 - first).abs().min()) > 1e-6


def test_the_streams_are_named_apart_from_those_of_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective, x = setting()
    made: list[tuple[NoisePurpose, bytes]] = []

    def noted(secret: object, number: int, purpose: NoisePurpose, *, question: bytes) -> bytes:
        made.append((purpose, question))
        return stream_key(simulated_secret(0, 0), number, purpose, question=question)

    monkeypatch.setattr("fedstrategies.privacy.statistic.stream_key", noted)
    client = private(objective, max_grad_norm=2.0)  # type: ignore[no-untyped-call]
    client.mean_statistic(x, squares(objective, max_norm=2.0))
    assert [purpose for purpose, _ in made] == [NoisePurpose.SAMPLE, NoisePurpose.STATISTIC]
    own = client.mechanism.question(x, objective.num_examples)
    assert all(question == b"statistic" + own for _, question in made)


def test_an_example_that_is_not_finite_counts_as_none() -> None:
    objective, x = setting()
    features, targets = objective.examples.take(None, torch.device("cpu"))
    wild = features.clone()
    wild[4, 2] = math.inf
    broken = TorchObjective(module=objective.module, loss=objective.loss, data=(wild, targets))
    found = private(broken, noise_multiplier=0.0).mean_statistic(  # type: ignore[no-untyped-call]
        x, squares(objective, max_norm=1e6)
    )
    rows = rows_of(objective, x)
    rest = rows.sum(0) - rows[4]
    torch.testing.assert_close(found, rest / len(rows), rtol=1e-12, atol=0)


def test_it_is_charged_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, x = setting()
    client = private(objective)  # type: ignore[no-untyped-call]

    def failing(*args: object, **kwargs: object) -> Tensor:
        raise RuntimeError("the module failed")

    monkeypatch.setattr(type(objective.autograd), "total", failing)
    with pytest.raises(RuntimeError, match="the module failed"):
        client.mean_statistic(x, squares(objective, max_norm=1.0))
    assert client.ledger.releases == 1


def test_a_module_that_came_to_couple_its_examples_is_refused() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3))
    module[1].eval()
    objective = network(module)  # type: ignore[no-untyped-call]
    client = private(objective)  # type: ignore[no-untyped-call]
    module[1].train()
    with pytest.raises(PrivacyError, match="BatchNorm makes each example depend"):
        client.mean_statistic(start(objective), squares(objective, max_norm=1.0))  # type: ignore[no-untyped-call]
    assert client.ledger == Ledger()


def test_all_must_be_able_to_pay_or_nobody_is_charged() -> None:
    objective, x = setting()
    spent = Ledger().charge(noise_multiplier=2.0, sample_rate=1.0, steps=5)
    budget = Budget(epsilon=spent.epsilon(1e-5), delta=1e-5)
    rich = private(objective, budget=budget)  # type: ignore[no-untyped-call]
    poor = private(objective, budget=budget, ledger=spent)  # type: ignore[no-untyped-call]
    both = PrivateObjective.stack([rich, poor])
    with pytest.raises(BudgetSpent, match="1 of 2 clients"):
        both.mean_statistics(x, squares(objective, max_norm=1.0))
    assert rich.ledger == Ledger()
    one = both.mean_statistics(x, squares(objective, max_norm=1.0), clients=torch.tensor([0]))
    again = private(objective).mean_statistic(x, squares(objective, max_norm=1.0))  # type: ignore[no-untyped-call]
    assert torch.equal(one[0], again)


def test_where_the_budget_ends_nothing_is_charged() -> None:
    objective, x = setting()
    budget = Budget(epsilon=1.0, delta=1e-5)
    client = private(objective, noise_multiplier=4.0, budget=budget)  # type: ignore[no-untyped-call]
    left = client.releases_left
    assert left is not None
    for _ in range(left):
        client.mean_statistic(x, squares(objective, max_norm=1.0))
    spent = client.ledger
    with pytest.raises(BudgetSpent):
        client.mean_statistic(x, squares(objective, max_norm=1.0))
    assert client.ledger == spent


def test_what_cannot_be_hidden_or_seen_is_refused_before_it_is_charged() -> None:
    objective, x = setting()
    client = private(objective)  # type: ignore[no-untyped-call]
    with pytest.raises(PrivacyError, match="give Calibration a finite max_norm"):
        client.mean_statistic(x, squares(objective))
    plain = logistic()  # type: ignore[no-untyped-call]
    blind = PrivateObjective(
        objective=plain, max_grad_norm=1.0, noise_multiplier=1.0, secret=simulated_secret(0, 0)
    )
    for one in (client, blind):
        assert one.ledger == Ledger()
    with pytest.raises(PrivacyError, match="no layers"):
        blind.mean_statistic(normal(11), squares(objective, max_norm=1.0))  # type: ignore[no-untyped-call]
    assert blind.ledger == Ledger()
    with pytest.raises(NotImplementedError, match="a TorchObjective has"):
        plain.mean_statistic(normal(11), squares(objective))  # type: ignore[no-untyped-call]
    with pytest.raises(NotImplementedError, match="no layers"):
        plain.as_batch.mean_statistics(normal(11), squares(objective))  # type: ignore[no-untyped-call]
