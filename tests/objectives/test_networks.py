"""The networks: shapes, gradients, and that building them draws nothing."""

import pytest
import torch
from torch import nn

from fedstrategies.objectives import TorchObjective, cnn_classifier, lstm_classifier


def images(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.rand(count, 64, generator=draw, dtype=torch.float64),
        torch.randint(3, (count,), generator=draw),
    )


def text(count: int = 6, length: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randint(7, (count, length), generator=draw),
        torch.randint(7, (count, length), generator=draw),
    )


CASES = {
    "cnn": (cnn_classifier(3, image=(1, 8, 8), width=2, dtype=torch.float64), images()),
    "lstm": (lstm_classifier(7, width=4, dtype=torch.float64), text()),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    module, data = CASES[name]
    f_i = TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=data, l2=0.1)
    draw = torch.Generator().manual_seed(1)
    x = 0.3 * torch.randn(f_i.dimension, generator=draw, dtype=torch.float64)
    way = torch.randn(f_i.dimension, generator=draw, dtype=torch.float64)
    way /= way.norm()
    _, slope = f_i.value_and_gradient(x)
    step = 1e-6
    measured = (f_i.value(x + step * way) - f_i.value(x - step * way)) / (2 * step)
    assert float(slope @ way) == pytest.approx(float(measured), rel=1e-5, abs=1e-8)
    assert 0 <= float(f_i.accuracy(x)) <= 1


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_zero_and_no_generator_moves(name: str) -> None:
    before = torch.random.get_rng_state()
    if name == "cnn":
        module = cnn_classifier(3, image=(1, 8, 8), width=2, dtype=torch.float32)
    else:
        module = lstm_classifier(7, width=4, dtype=torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    for parameter in module.parameters():
        assert parameter.dtype == torch.float32
        assert not bool(parameter.any())


def test_scores_have_the_shapes_of_the_cross_entropy() -> None:
    module, (rows, labels) = CASES["cnn"]
    assert module(rows).shape == (6, 3)
    assert nn.CrossEntropyLoss()(module(rows), labels).shape == ()
    module, (rows, labels) = CASES["lstm"]
    assert module(rows).shape == (6, 7, 5)
    assert nn.CrossEntropyLoss()(module(rows), labels).shape == ()


def test_the_next_character_may_depend_on_earlier_ones_alone() -> None:
    module = lstm_classifier(7, width=4, dtype=torch.float64)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
        rows, _ = text()
        changed = rows.clone()
        changed[:, 3] = (changed[:, 3] + 1) % 7
        before, after = module(rows), module(changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.equal(before[:, :, 3:], after[:, :, 3:])


def test_tiny_images_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        cnn_classifier(3, image=(1, 3, 3), width=2, dtype=torch.float32)
