"""Private objectives: their releases, and what is charged for them."""

import math
import sys

import pytest
import torch

from fedstrategies.objectives import (
    mlp_classifier,
)
from fedstrategies.privacy import (
    Ledger,
    PrivacyError,
    PrivateObjective,
    simulated_secret,
)
from tests.privacy.clients import (
    DIMENSION,
    SIZES,
    autograd_means,
    logistic,
    network,
    normal,
    private,
    start,
)


def test_the_noise_has_the_stated_scale_in_every_coordinate():
    objective = logistic(40)
    x = normal(DIMENSION, seed=52)
    client = private(objective, max_grad_norm=0.5, noise_multiplier=3.0, expected_batch_size=40)
    clean = private(objective, max_grad_norm=0.5, noise_multiplier=0.0).value_and_gradient(x)[1]
    releases = torch.stack([client.value_and_gradient(x)[1] for _ in range(1000)])
    noise = (releases - clean) / (3.0 * 0.5 / 40)
    assert (noise.mean(dim=0).abs() < 4 / math.sqrt(1000)).all()
    assert ((noise.var(dim=0) - 1.0).abs() < 4 * math.sqrt(2 / 1000)).all()
    correlations = torch.corrcoef(noise.T) - torch.eye(DIMENSION)
    assert float(correlations.abs().max()) < 4.5 / math.sqrt(1000)
    assert client.ledger == Ledger().charge(noise_multiplier=3.0, sample_rate=1.0, steps=1000)


def test_sampled_gradients_are_those_of_the_sample_over_the_expected_size():
    objective = logistic(40)
    x = normal(DIMENSION, seed=53)
    client = private(objective, noise_multiplier=0.0, expected_batch_size=10)
    total = torch.zeros(DIMENSION, dtype=torch.float64)
    for number in range(400):
        chosen = client.sample(client.streams(x, number)[1])
        found = client.value_and_gradient(x)[1]
        total += found
        if number < 5:
            expected = autograd_means(
                objective, x, max_norm=0.5, rows=chosen.nonzero()[:, 0].tolist(), divisor=10
            )
            assert torch.allclose(found, expected + 0.1 * x, rtol=1e-12)
    mean = autograd_means(objective, x, max_norm=0.5) + 0.1 * x
    # One gradient has norm at most 1/2, so each coordinate deviates by sqrt(m q) / (2 B) at most.
    assert ((total / 400 - mean).abs() < 4 * math.sqrt(10) * 0.05 / 20).all()


def test_an_empty_sample_is_noise_all_the_same():
    pytest.importorskip("opacus")
    for objective in (logistic(30), network(mlp_classifier(6, 3, width=4, dtype=torch.float64))):
        client = private(objective, expected_batch_size=1)
        x = start(client)
        empty = next(n for n in range(100) if not client.sample(client.streams(x, n)[1]).any())
        client.restore(
            Ledger().charge(
                noise_multiplier=2.0, sample_rate=client.sample_rate, steps=max(empty, 1)
            )
        )
        while client.sample(client.streams(x, client.ledger.releases)[1]).any():
            client.charge()
        gradient = client.value_and_gradient(x)[1]
        assert torch.isfinite(gradient).all()
        assert (gradient != objective.l2 * x).all()


def test_the_servers_public_seed_does_not_reproduce_the_noise():
    objective = logistic()
    x = normal(DIMENSION, seed=54)
    clean = private(objective, noise_multiplier=0.0).value_and_gradient(x)[1]
    hidden = private(objective, partition=1234).value_and_gradient(x)[1] - clean
    guesses = [
        private(objective, secret=simulated_secret(seed, partition)).value_and_gradient(x)[1]
        - clean
        for seed in range(10)
        for partition in range(10)
    ]
    # Subtracting a wrong guess doubles the energy on average, and never comes near zero.
    errors = torch.stack([(hidden - guess).norm() / hidden.norm() for guess in guesses])
    assert float(errors.min()) > 0.5


def test_releases_never_share_their_noise():
    objective = logistic()
    x = normal(DIMENSION, seed=55)
    clean = private(objective, noise_multiplier=0.0).value_and_gradient(x)[1]
    client = private(objective)
    first, second = (client.value_and_gradient(x)[1] - clean for _ in range(2))
    assert not torch.isclose(first, second).any()
    # A node that lost count: the same question gets the same answer, another one other noise.
    again = private(objective)
    assert torch.equal(again.value_and_gradient(x)[1] - clean, first)
    for other in (
        private(objective, noise_multiplier=2.5),
        private(objective, max_grad_norm=0.6),
        private(objective, expected_batch_size=39),
    ):
        unlike = other.value_and_gradient(x)[1] - clean
        scale = other.mechanism.noise_scale(40) / client.mechanism.noise_scale(40)
        assert not torch.isclose(unlike, scale * first, rtol=1e-3).any()
    moved = private(objective).value_and_gradient(x + 1e-9)[1] - clean
    assert not torch.isclose(moved, first, rtol=1e-3).any()


def test_resuming_from_the_ledger_gives_the_bits_and_the_epsilon_of_an_uninterrupted_run():
    objective = logistic()
    points = normal(6, DIMENSION, seed=56)
    whole = private(objective)
    expected = [whole.value_and_gradient(x)[1] for x in points]
    killed = private(objective)
    for x in points[:3]:
        killed.value_and_gradient(x)
    resumed = private(objective, ledger=Ledger.from_bytes(killed.ledger.to_bytes()))
    for x, gradient in zip(points[3:], expected[3:], strict=True):
        assert torch.equal(resumed.value_and_gradient(x)[1], gradient)
    assert resumed.ledger == whole.ledger


def test_a_release_is_charged_before_it_is_made(monkeypatch):
    client = private(logistic())
    batch = client.as_batch

    def fail(*_args):
        raise OSError("the power went out")

    monkeypatch.setattr(batch, "_with_noise", fail)
    with pytest.raises(OSError, match="power"):
        client.value_and_gradient(normal(DIMENSION))
    assert client.ledger.releases == 1


def test_values_and_accuracies_are_withheld():
    client = private(logistic())
    x = normal(DIMENSION)
    assert math.isnan(float(client.value_and_gradient(x)[0]))
    assert math.isnan(float(client.value(x)))
    assert math.isnan(float(client.accuracy(x)))
    batch = PrivateObjective.stack(
        [private(logistic(size, seed=s)) for s, size in enumerate(SIZES)]
    )
    rows = torch.tensor([0, 2])
    assert batch.value_and_gradient(x)[0].isnan().all()
    assert batch.values(x, clients=rows).isnan().tolist() == [True, True]
    assert batch.accuracy(x).isnan().all()
    # For simulations, and for free: nothing of it leaves a node.
    assert float(client.objective.value(x)) > 0
    assert torch.equal(batch.exposed.values(x)[0], logistic(1).value(x))
    assert client.ledger.releases == 1
    assert batch.remembering() is batch


def test_shuffled_passes_are_refused():
    with pytest.raises(PrivacyError, match="Poisson"):
        private(logistic()).at_rows(normal(DIMENSION), torch.tensor([0]))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be positive"),
        ({"max_grad_norm": float("inf")}, "give a finite one"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"expected_batch_size": 0}, "expected_batch_size"),
        ({"expected_batch_size": 41}, "exceeds a client's 40 examples"),
        ({"coordinates": torch.ones(3, dtype=torch.bool)}, "coordinates"),
        ({"coordinates": torch.ones(DIMENSION)}, "coordinates"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(options, complaint):
    with pytest.raises(PrivacyError, match=complaint) as refusal:
        private(logistic(), **options)
    assert "\n" not in str(refusal.value)


def test_without_opacus_the_extra_is_named(monkeypatch):
    for name in ("opacus", "opacus.validators"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PrivacyError, match=r'pip install "fedstrategies\[privacy\]"'):
        private(network(mlp_classifier(6, 3, width=4, dtype=torch.float64)))


def test_a_layer_that_somebody_listens_to_is_refused():
    """Opacus takes the gradient behind the hook for that of the layer."""
    module = torch.nn.Linear(6, 3)
    module.register_forward_hook(lambda layer, inputs, outputs: 2.0 * outputs)
    with pytest.raises(PrivacyError, match="hooks"):
        private(network(module))
