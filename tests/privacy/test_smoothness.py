"""Step-size constants that hold for all data, and what a run with them reaches."""

import pytest
import torch

from fedstrategies.data import binary_labels, contiguous_partition, load_dataset
from fedstrategies.objectives import (
    LogisticRegression,
)
from fedstrategies.privacy import (
    Budget,
    Ledger,
    PrivacyError,
    PrivateObjective,
    calibrate_noise,
    clip_rows,
    clipped_logistic_smoothness,
    clipped_softmax_smoothness,
)
from tests.privacy.clients import (
    private,
)


def test_rows_are_clipped_one_by_one():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clipped = clip_rows(rows, 1.0)
    assert torch.allclose(clipped[0], torch.tensor([0.6, 0.8]))
    assert torch.equal(clipped[1:], rows[1:])
    with pytest.raises(PrivacyError, match="max_norm"):
        clip_rows(rows, 0.0)


@pytest.mark.parametrize("max_grad_norm", [0.2, 0.9, 1.5, float("inf")])
def test_the_smoothness_bound_holds_for_all_data_and_is_met(max_grad_norm):
    radius, l2 = 2.0, 0.05
    bound = clipped_logistic_smoothness(3, max_row_norm=radius, max_grad_norm=max_grad_norm, l2=l2)
    assert bound.mu == l2
    assert bound.L == bound.L_tilde == bound.L_max
    steepest = 0.0
    for length in (0.5, 1.0, 1.7, 2.0):
        objective = LogisticRegression(
            features=torch.tensor([[length, 0.0]], dtype=torch.float64),
            labels=torch.tensor([-1.0]),
            l2=l2,
        )
        client = private(objective, max_grad_norm=max_grad_norm, noise_multiplier=0.0)
        grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
        points = torch.stack([grid, torch.zeros_like(grid)], dim=1)
        batch = PrivateObjective.stack([client] * len(points))
        slopes = batch.value_and_gradient(points)[1][:, 0].diff() / grid.diff()
        steepest = max(steepest, float(slopes.max()))
    assert steepest <= bound.L * (1 + 1e-9)
    assert steepest > 0.98 * bound.L


def test_the_bounds_without_clipping_are_the_usual_ones():
    assert clipped_logistic_smoothness(2, max_row_norm=3.0).L == 9.0 / 4.0
    assert clipped_softmax_smoothness(2, max_row_norm=3.0, l2=0.5).L == 5.5
    for wrong in (0.0, float("inf")):
        with pytest.raises(PrivacyError, match="max_row_norm"):
            clipped_logistic_smoothness(2, max_row_norm=wrong)
    with pytest.raises(PrivacyError, match="0 clients"):
        clipped_softmax_smoothness(0, max_row_norm=1.0)


@pytest.mark.parametrize("batch", [None, 100])
def test_mushrooms_are_learnt_at_epsilon_4(batch):
    """Twenty clients, a hundred full or sampled gradients: the noise is in the mean of 20."""
    pytest.importorskip("opacus")
    data = load_dataset("mushrooms")
    labels = binary_labels(data.labels)
    clients = [
        LogisticRegression(features=data.features[rows], labels=labels[rows], l2=1e-3)
        for rows in contiguous_partition(len(data), 20)
    ]
    rates = {1.0 if batch is None else batch / one.num_examples for one in clients}
    plans = [Ledger().charge(noise_multiplier=1.0, sample_rate=q, steps=100) for q in rates]
    sigma = calibrate_noise(plans, epsilon=4.0, delta=1e-5)
    budget = Budget(epsilon=4.0, delta=1e-5)
    batched = PrivateObjective.stack(
        [
            private(
                one,
                partition=place,
                max_grad_norm=1.0,
                noise_multiplier=sigma,
                expected_batch_size=batch,
                budget=budget,
            )
            for place, one in enumerate(clients)
        ]
    )
    x = torch.zeros(batched.dimension, dtype=torch.float64)
    for _ in range(100):
        x = x - batched.value_and_gradient(x)[1].mean(dim=0)
    pooled = LogisticRegression(features=data.features, labels=labels)
    assert float(pooled.accuracy(x)) > 0.97
    spent = [member.ledger.epsilon(1e-5) for member in batched.members]
    assert 3.96 < max(spent) <= 4.0
    assert batched.spent().any()
