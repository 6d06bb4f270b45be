"""Many private clients in one call: the bits and the charges each would have alone."""

import pytest
import torch

from fedstrategies.objectives import (
    LogisticRegression,
    PersonalObjective,
    linear_classifier,
    mlp_classifier,
)
from fedstrategies.privacy import (
    Budget,
    BudgetSpent,
    Ledger,
    PrivacyError,
    PrivateObjective,
)
from tests.privacy.clients import (
    DIMENSION,
    PLAIN,
    SIZES,
    logistic,
    network,
    normal,
    private,
    start,
)

SETTINGS = [{}, {"expected_batch_size": 1}, {"noise_multiplier": 0.0}]


def crowd(**options):
    """Fresh private clients of different sizes: nothing charged yet."""
    clients = [logistic(size, seed=seed) for seed, size in enumerate(SIZES)]
    return [private(one, partition=place, **options) for place, one in enumerate(clients)]


def networks(**options):
    module = mlp_classifier(6, 3, width=4, dtype=torch.float64)
    return [
        private(network(module, size=size), partition=size, **options) for size in (3, 5, 12, 4)
    ]


@pytest.mark.parametrize("options", SETTINGS)
def test_alone_and_in_any_company_the_same_bits(options):
    x = normal(DIMENSION, seed=50)
    together = PrivateObjective.stack(crowd(**options))
    gradients = together.value_and_gradient(x)[1]
    for place, client in enumerate(crowd(**options)):
        assert torch.equal(client.value_and_gradient(x)[1], gradients[place])
    rows = torch.tensor([1, 3, 4, 7])
    subset = PrivateObjective.stack(crowd(**options)).value_and_gradient(x, clients=rows)[1]
    assert torch.equal(subset, gradients[rows])
    points = x.repeat(len(SIZES), 1)
    own = PrivateObjective.stack(crowd(**options)).value_and_gradient(points)[1]
    assert torch.equal(own, gradients)


def test_networks_alone_and_in_company_the_same_bits():
    pytest.importorskip("opacus")
    options = {"expected_batch_size": 2}
    x = start(networks(**options)[0])
    gradients = PrivateObjective.stack(networks(**options)).value_and_gradient(x)[1]
    for place, client in enumerate(networks(**options)):
        assert torch.equal(client.value_and_gradient(x)[1], gradients[place])


def test_without_noise_clip_and_sampling_it_is_the_plain_gradient():
    plain = LogisticRegression.stack([logistic(size, seed=s) for s, size in enumerate(SIZES)])
    x = normal(DIMENSION, seed=51)
    expected = plain.value_and_gradient(x)[1]
    clients = PrivateObjective.stack(crowd(**PLAIN))
    assert torch.equal(clients.value_and_gradient(x)[1], expected)
    full = {"expected_batch_size": SIZES[5]}
    alone = private(logistic(SIZES[5], seed=5), **PLAIN, **full)
    assert torch.equal(alone.value_and_gradient(x)[1], expected[5])


def test_without_noise_and_clip_networks_give_the_plain_gradient():
    pytest.importorskip("opacus")
    for client in (
        *networks(**PLAIN),
        private(network(linear_classifier(6, 3, dtype=torch.float64)), **PLAIN),
    ):
        x = start(client)
        expected = client.objective.value_and_gradient(x)[1]
        found = client.value_and_gradient(x)[1]
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_wrong_points_are_refused_before_anybody_is_charged():
    batch = PrivateObjective.stack(crowd())
    for wrong in (normal(DIMENSION + 1), normal(2, DIMENSION), normal(DIMENSION).float()):
        with pytest.raises(ValueError, match="x "):
            batch.value_and_gradient(wrong)
    assert all(member.ledger == Ledger() for member in batch.members)


def test_only_the_selected_are_charged_and_all_or_nobody():
    pytest.importorskip("opacus")
    budget = Budget(epsilon=2.0, delta=1e-5)
    clients = crowd(noise_multiplier=8.0, budget=budget)
    left = clients[0].releases_left
    clients[2].restore(Ledger().charge(noise_multiplier=8.0, sample_rate=1.0, steps=left))
    batch = PrivateObjective.stack(clients)
    assert batch.spent().tolist() == [False, False, True, *[False] * 5]
    x = normal(DIMENSION)
    with pytest.raises(BudgetSpent, match=r"1 of 8 clients is spent \(rows 2\); leave them out"):
        batch.value_and_gradient(x)
    assert [one.ledger.releases for one in clients] == [0, 0, left, *[0] * 5]
    batch.value_and_gradient(x, clients=torch.tensor([0, 7]))
    assert [one.ledger.releases for one in clients] == [1, 0, left, 0, 0, 0, 0, 1]


def test_personal_objectives_go_around_private_ones():
    def personal():
        key = torch.tensor([1])
        return [PersonalObjective(objective=one, key=key) for one in crowd()]

    batch = PersonalObjective.stack(personal())
    assert batch.stochastic
    x = normal(DIMENSION, seed=57)
    gradients = batch.value_and_gradient(x)[1]
    assert torch.equal(gradients, PrivateObjective.stack(crowd()).value_and_gradient(x)[1])
    with pytest.raises(PrivacyError, match="a personal objective goes around it"):
        private(personal()[0])


def test_private_and_plain_clients_do_not_mix():
    linear = private(network(linear_classifier(6, 3, dtype=torch.float64)))
    for mixture in ([linear, private(logistic())], [private(logistic()), linear]):
        with pytest.raises(PrivacyError, match="got LogisticRegression, TorchObjective"):
            PrivateObjective.stack(mixture)
    with pytest.raises(PrivacyError, match="each other"):
        PrivateObjective.stack([private(logistic()), logistic()])
