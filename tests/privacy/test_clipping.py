"""Clipped sums against one backward pass an example."""

import pytest
import torch
from torch import nn

from fedstrategies.objectives import (
    LogisticRegression,
    TorchObjective,
    cnn_classifier,
    linear_classifier,
    mlp_classifier,
)
from fedstrategies.privacy import PrivacyError, per_example
from fedstrategies.privacy.clipping import clip_factors, clipped_softmax_mean, row_norms
from fedstrategies.privacy.per_example import check_module, clipped_module_mean
from tests.privacy.clients import (
    PLAIN,
    autograd_means,
    logistic,
    network,
    normal,
    private,
    start,
)

NORMS = [1e-3, 0.7, 2.0, float("inf")]


def clipped(objective, x, max_norm, **options):
    """The clipped mean over all examples: a release without noise, less the regulariser."""
    client = private(objective, max_grad_norm=max_norm, noise_multiplier=0.0, **options)
    return client.value_and_gradient(x)[1] - objective.l2 * x


def cnn():
    return cnn_classifier(3, image=(1, 4, 4), width=2, dtype=torch.float64)


def test_factors():
    norms = torch.tensor([0.0, 0.5, 1.0, 2.0, float("inf"), float("nan")])
    assert clip_factors(norms, 1.0).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert clip_factors(norms[:4], float("inf")).tolist() == [1.0] * 4


def test_row_norms():
    rows, mask = normal(5, 4), torch.tensor([True, False, True, False])
    assert torch.allclose(row_norms(rows, mask), rows[:, [0, 2]].norm(dim=1), rtol=1e-15)
    assert torch.equal(row_norms(rows[2:3]), row_norms(rows)[2:3])


@pytest.mark.parametrize("max_norm", NORMS)
@pytest.mark.parametrize("size", [1, 13, 41])
def test_logistic_regression(size, max_norm):
    objective = logistic(size)
    x = normal(objective.dimension, seed=5)
    expected = autograd_means(objective, x, max_norm=max_norm)
    assert torch.allclose(clipped(objective, x, max_norm), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("max_norm", NORMS)
def test_softmax_regression(max_norm):
    pytest.importorskip("opacus")
    objective = network(linear_classifier(6, 3, dtype=torch.float64))
    x = start(objective)
    expected = autograd_means(objective, x, max_norm=max_norm)
    assert torch.allclose(clipped(objective, x, max_norm), expected, rtol=1e-12, atol=1e-14)
    rows = torch.arange(objective.num_examples)
    through_opacus = clipped_module_mean(
        objective, x, rows, max_norm=max_norm, divisor=objective.num_examples
    )
    assert torch.allclose(through_opacus, expected, rtol=1e-12, atol=1e-14)


def test_softmax_regression_without_bias_and_without_examples():
    features, targets = normal(7, 4), torch.arange(7) % 3
    module = nn.Linear(4, 3, bias=False).double()
    objective = TorchObjective(
        module=module, loss=nn.CrossEntropyLoss(), data=(features, targets), l2=0.1
    )
    x = normal(12, seed=3)
    expected = autograd_means(objective, x, max_norm=0.3)
    assert torch.allclose(clipped(objective, x, 0.3), expected, rtol=1e-12)
    weight, bias = clipped_softmax_mean(
        features[:0],
        targets[:0],
        weight=x.view(3, 4),
        bias=torch.zeros(3).double(),
        max_norm=1.0,
        divisor=5,
    )
    assert not weight.any()
    assert bias is not None
    assert not bias.any()


@pytest.mark.parametrize("max_norm", NORMS)
@pytest.mark.parametrize(
    ("module", "shape"),
    [(lambda: mlp_classifier(6, 3, width=4, dtype=torch.float64), (6,)), (cnn, (16,))],
    ids=["mlp", "cnn"],
)
def test_networks(module, shape, max_norm):
    pytest.importorskip("opacus")
    objective = network(module(), shape=shape)
    x = start(objective)
    expected = autograd_means(objective, x, max_norm=max_norm)
    assert torch.allclose(clipped(objective, x, max_norm), expected, rtol=1e-11, atol=1e-14)


def test_recurrent_networks():
    layers = pytest.importorskip("opacus.layers")

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = layers.DPLSTM(2, 3, batch_first=True)
            self.output = nn.Linear(3, 3)

        def forward(self, rows):
            states, _ = self.cells(rows)
            return self.output(states[:, -1])

    objective = network(Reader(), size=5, shape=(4, 2))
    x = start(objective)
    expected = autograd_means(objective, x, max_norm=0.8)
    assert torch.allclose(clipped(objective, x, 0.8), expected, rtol=1e-11, atol=1e-14)


def test_chunks_change_nothing_but_rounding(monkeypatch):
    pytest.importorskip("opacus")
    objective = network(mlp_classifier(6, 3, width=4, dtype=torch.float64))
    x = start(objective)
    whole = clipped(objective, x, 0.5)
    chunked = network(mlp_classifier(6, 3, width=4, dtype=torch.float64), chunk_size=5)
    assert torch.allclose(clipped(chunked, x, 0.5), whole, rtol=1e-13, atol=1e-15)
    monkeypatch.setattr(per_example, "_CHUNK_BYTES", 1)
    assert torch.allclose(clipped(objective, x, 0.5), whole, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("max_norm", [0.3, float("inf")])
def test_some_coordinates_only(max_norm):
    objective = logistic(13)
    x = normal(objective.dimension, seed=5)
    mask = torch.arange(objective.dimension) % 3 == 0
    found = private(
        objective, max_grad_norm=max_norm, noise_multiplier=0.0, coordinates=mask
    ).value_and_gradient(x)[1]
    expected = autograd_means(objective, x, max_norm=max_norm, coordinates=mask)
    assert torch.allclose(found, expected + 0.1 * x * mask, rtol=1e-12)
    assert not found[~mask].any()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_some_coordinates_of_a_network(kind):
    pytest.importorskip("opacus")
    module = linear_classifier(6, 3, dtype=torch.float64)
    if kind == "mlp":
        module = mlp_classifier(6, 3, width=4, dtype=torch.float64)
    objective = network(module)
    x = start(objective)
    mask = torch.arange(objective.dimension) >= objective.dimension // 2
    client = private(objective, noise_multiplier=2.0, coordinates=mask)
    noisy = client.value_and_gradient(x)[1]
    assert not noisy[~mask].any()
    assert noisy[mask].all()
    found = private(
        objective, max_grad_norm=0.4, noise_multiplier=0.0, coordinates=mask
    ).value_and_gradient(x)[1]
    expected = autograd_means(objective, x, max_norm=0.4, coordinates=mask)
    assert torch.allclose(found, expected + 0.1 * x * mask, rtol=1e-11, atol=1e-14)


def test_frozen_parameters_stay_frozen_and_the_module_untouched():
    pytest.importorskip("opacus")
    module = mlp_classifier(6, 3, width=4, dtype=torch.float64)
    objective = network(module, trainable="output.*")
    before = {name: p.clone() for name, p in module.named_parameters()}
    x = normal(objective.dimension, seed=9)
    expected = autograd_means(objective, x, max_norm=0.5)
    assert torch.allclose(clipped(objective, x, 0.5), expected, rtol=1e-11, atol=1e-14)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")
    assert not module._forward_hooks
    assert not hasattr(module, "autograd_grad_sample_hooks")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("kind", ["logistic", "linear", "mlp"])
def test_a_hostile_model_cannot_break_the_bound(kind, bad):
    """What one example changes is at most C/B, whatever the server asks."""
    if kind == "logistic":
        objective = logistic(6, l2=0.0)
    else:
        pytest.importorskip("opacus")
        build = {
            "linear": lambda: linear_classifier(6, 3, dtype=torch.float64),
            "mlp": lambda: mlp_classifier(6, 3, width=4, dtype=torch.float64),
        }[kind]
        objective = network(build(), l2=0.0)
    x = normal(objective.dimension, seed=2)
    x[0] = bad
    found = private(objective, max_grad_norm=0.5, noise_multiplier=0.0).value_and_gradient(x)[1]
    assert torch.isfinite(found).all()
    assert float(found.norm()) <= 0.5 + 1e-12


def test_batch_normalisation_is_refused_with_the_fix():
    validators = pytest.importorskip("opacus.validators")
    module = nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    with pytest.raises(PrivacyError, match="BatchNorm cannot support") as refusal:
        private(network(module, shape=(16,)))
    assert "ModuleValidator.fix(module)" in str(refusal.value)
    assert "(at 2)" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    fixed = validators.ModuleValidator.fix(module)
    check_module(fixed)
    objective = network(fixed, shape=(16,))
    x = start(objective)
    expected = autograd_means(objective, x, max_norm=0.5)
    assert torch.allclose(clipped(objective, x, 0.5), expected, rtol=1e-11, atol=1e-14)


def test_batch_normalisation_without_parameters_is_refused_too():
    pytest.importorskip("opacus")
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3))
    with pytest.raises(PrivacyError, match="depend on the others"):
        private(network(module))


def test_a_module_in_evaluation_mode_is_refused():
    pytest.importorskip("opacus")
    objective = network(mlp_classifier(6, 3, width=4, dtype=torch.float64).eval())
    with pytest.raises(PrivacyError, match=r"call module\.train\(\)"):
        private(objective)


def test_the_usual_lstm_is_refused_with_the_fix():
    pytest.importorskip("opacus")
    with pytest.raises(PrivacyError, match="DPLSTM"):
        check_module(nn.LSTM(2, 3))


def test_plain_gradients_bit_for_bit_in_closed_form():
    objective = logistic(41)
    x = normal(objective.dimension, seed=5)
    found = private(objective, **PLAIN).value_and_gradient(x)[1]
    assert torch.equal(found, objective.value_and_gradient(x)[1])
    single = LogisticRegression(
        features=objective.features.float(), labels=objective.labels, l2=0.1
    )
    found = private(single, **PLAIN).value_and_gradient(x.float())[1]
    assert torch.equal(found, single.value_and_gradient(x.float())[1])
