import math

import pytest
import torch

from fedstrategies.objectives import LogisticRegression
from tests.objectives.clients import normal, random_client, random_clients


def by_definition(client, x):
    margins = -client.labels * (client.features @ x)
    return torch.nn.functional.softplus(margins, threshold=1e9).mean() + client.l2 / 2 * (x @ x)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_gradient_equals_autograd_and_finite_differences(size):
    client = random_client(size, 9, seed=size, l2=0.3)
    x = normal(9, seed=1)
    value, gradient = client.value_and_gradient(x)

    point = x.clone().requires_grad_()
    expected = by_definition(client, point)
    (slope,) = torch.autograd.grad(expected, point)
    torch.testing.assert_close(value, expected.detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-13)

    step = 1e-4
    for axis, along in enumerate(step * torch.eye(9, dtype=torch.float64)):
        # Fourth-order central differences: error of order step**4 = 1e-16 over rounding 1e-12.
        near = client.value(x + along) - client.value(x - along)
        far = client.value(x + 2 * along) - client.value(x - 2 * along)
        assert float(8 * near - far) / (12 * step) == pytest.approx(
            float(gradient[axis]), abs=1e-10
        )


def test_batch_equals_the_definition_with_individual_l2():
    clients = [random_client(m, 6, seed=m, l2=m / 10) for m in (3, 1, 5, 3)]
    x = normal(6)
    values, gradients = LogisticRegression.stack(clients).value_and_gradient(x)
    for client, value, gradient in zip(clients, values, gradients, strict=True):
        assert float(value) == pytest.approx(float(by_definition(client, x)), abs=1e-14)
        alone = client.value_and_gradient(x)
        assert torch.equal(alone[0], value)
        assert torch.equal(alone[1], gradient)


def test_start_value_on_real_data_is_log_two(mushrooms_clients):
    batched = LogisticRegression.stack(mushrooms_clients(20))
    values = batched.values(torch.zeros(112, dtype=torch.float64))
    torch.testing.assert_close(values, torch.full_like(values, math.log(2.0)), rtol=0, atol=1e-15)
    assert batched.num_examples.tolist() == [406] * 19 + [410]


def test_large_margins_neither_overflow_nor_lose_digits():
    client = LogisticRegression(
        features=torch.tensor([[1.0], [1.0]], dtype=torch.float64), labels=torch.tensor([1, -1])
    )
    for size in (50.0, 800.0, 1e300):
        value, gradient = client.value_and_gradient(torch.tensor([size], dtype=torch.float64))
        assert float(value) == pytest.approx(size / 2, rel=1e-15)
        assert float(gradient) == pytest.approx(0.5, rel=1e-15)
    far = LogisticRegression(features=torch.full((1, 1), 40.0).double(), labels=torch.tensor([1]))
    value, gradient = far.value_and_gradient(torch.ones(1, dtype=torch.float64))
    assert float(value) == pytest.approx(math.exp(-40.0), rel=1e-12)
    assert float(gradient) == pytest.approx(-40 * math.exp(-40.0), rel=1e-12)


def test_a_point_that_is_not_finite_gives_values_that_are_not_and_no_warning(recwarn):
    batched = LogisticRegression.stack(random_clients())
    values, _ = batched.value_and_gradient(torch.full((113,), torch.inf, dtype=torch.float64))
    assert not torch.isfinite(values).any()
    assert not recwarn.list


def test_accuracy_counts_signs_and_takes_zero_for_minus_one():
    features = torch.tensor([[1.0], [2.0], [-1.0], [0.0], [0.0]], dtype=torch.float64)
    labels = torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0])
    client = LogisticRegression(features=features, labels=labels)
    assert float(client.accuracy(torch.ones(1, dtype=torch.float64))) == 3 / 5
    assert float(client.accuracy(torch.zeros(1, dtype=torch.float64))) == 3 / 5
    batched = LogisticRegression.stack([client, *[random_client(30, 1, seed=s) for s in (1, 2)]])
    x = normal(1, seed=3)
    expected = [
        float(((c.features @ x > 0) == (c.labels > 0)).double().mean())
        for c in (client, random_client(30, 1, seed=1), random_client(30, 1, seed=2))
    ]
    assert batched.accuracy(x).tolist() == pytest.approx(expected, abs=1e-15)
    assert batched.accuracy(x, clients=torch.tensor([2])).tolist() == pytest.approx(expected[2:])


def test_float32_is_kept():
    client = LogisticRegression(
        features=normal(5, 3, dtype=torch.float32), labels=normal(5).sign(), l2=0.1
    )
    value, gradient = client.value_and_gradient(torch.zeros(3))
    assert client.dtype == value.dtype == gradient.dtype == torch.float32
    assert float(value) == pytest.approx(math.log(2.0), rel=1e-6)


def test_layout_and_start_point():
    client = random_client(4, 3, seed=0)
    arrays = client.initial_arrays()
    assert arrays.keys() == {"weight"}
    assert torch.equal(client.layout.flatten(arrays), torch.zeros(3, dtype=torch.float64))
    assert (client.dimension, client.num_examples, client.stochastic) == (3, 4, False)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"features": torch.ones(3)}, "shape"),
        ({"labels": torch.ones(2)}, "shape"),
        ({"features": torch.ones(0, 2).double(), "labels": torch.ones(0)}, "needs data"),
        ({"features": torch.ones(3, 2, dtype=torch.int64)}, r"cast them with \.double"),
        ({"labels": torch.tensor([1, 2, 1])}, "binary_labels"),
        ({"labels": torch.tensor([1, torch.nan, 1])}, "binary_labels"),
        ({"l2": -0.1}, "l2"),
        ({"l2": torch.nan}, "l2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_clients_are_refused(change, complaint):
    right = {"features": torch.ones(3, 2).double(), "labels": torch.tensor([1, -1, 1])}
    with pytest.raises(ValueError, match=complaint):
        LogisticRegression(**{**right, **change})


def test_wrong_batches_are_refused():
    with pytest.raises(ValueError, match="no client"):
        LogisticRegression.stack([])
    with pytest.raises(ValueError, match="share dimension"):
        LogisticRegression.stack([random_client(3, 2, seed=0), random_client(3, 4, seed=0)])
    with pytest.raises(ValueError, match="share dimension"):
        LogisticRegression.stack(
            [random_client(3, 2, seed=0), random_client(3, 2, seed=0, batch_size=1)]
        )
    batched = LogisticRegression.stack([random_client(3, 2, seed=s) for s in range(3)])
    with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(2,\) or \(3, 2\)"):
        batched.value_and_gradient(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected .* or \(1, 2\)"):
        batched.values(torch.zeros(3, 2, dtype=torch.float64), clients=torch.tensor([1]))
    with pytest.raises(ValueError, match=r"x is torch\.float32"):
        batched.values(torch.zeros(2))
