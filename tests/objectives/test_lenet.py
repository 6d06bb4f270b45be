import pytest
import torch
from torch import nn

from fedstrategies.objectives import TorchObjective, lenet_classifier
from fedstrategies.pruning import layer_groups


def sizes(classes, image):
    module = lenet_classifier(classes, image=image, dtype=torch.float32)
    return {group.name: group.size for group in layer_groups(module)}


def test_sizes_are_those_of_the_authors_networks():
    dense = {"fc2": 1_049_600, "fc3": 10_250}
    colour = {"conv1": 4_864, "conv2": 102_464, "fc1": 1_639_424}
    assert sizes(10, (3, 32, 32)) == {**colour, **dense}
    assert sum(sizes(10, (3, 32, 32)).values()) == 2_806_602
    assert sum(sizes(100, (3, 32, 32)).values()) == 2_898_852
    assert sum(sizes(10, (1, 28, 28)).values()) == 1_258_798


def test_scores_are_those_of_the_formula():
    module = lenet_classifier(3, image=(2, 16, 18), width=5, dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    parameters = dict(module.named_parameters())
    for parameter in parameters.values():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    rows = torch.rand(4, 2 * 16 * 18, generator=draw, dtype=torch.float64)
    signal = rows.reshape(4, 2, 16, 18)
    for name in ("conv1", "conv2"):
        windows = signal.unfold(2, 5, 1).unfold(3, 5, 1)
        signal = torch.einsum("bcijkl,ockl->boij", windows, parameters[f"{name}.weight"])
        signal = (signal + parameters[f"{name}.bias"][:, None, None]).relu()
        signal = signal.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    signal = signal.reshape(4, -1)
    for name in ("fc1", "fc2"):
        signal = (signal @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]).relu()
    expected = signal @ parameters["fc3.weight"].T + parameters["fc3.bias"]
    torch.testing.assert_close(module(rows), expected)


def test_it_starts_at_zero_and_no_generator_moves():
    before = torch.random.get_rng_state()
    module = lenet_classifier(3, image=(1, 16, 16), width=5, dtype=torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.dtype == torch.float32 and not p.any() for p in module.parameters())


def test_gradients_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(1)
    rows = torch.rand(3, 256, generator=draw, dtype=torch.float64)
    f_i = TorchObjective(
        module=lenet_classifier(3, image=(1, 16, 16), width=6, dtype=torch.float64),
        loss=nn.CrossEntropyLoss(),
        data=(rows, torch.arange(3)),
    )
    x = 0.3 * torch.randn(f_i.dimension, generator=draw, dtype=torch.float64)
    way = torch.randn(f_i.dimension, generator=draw, dtype=torch.float64)
    _, slope = f_i.value_and_gradient(x)
    assert all(bool(part.any()) for part in f_i.layout.unflatten(slope).values())
    measured = (f_i.value(x + 1e-7 * way) - f_i.value(x - 1e-7 * way)) / 2e-7
    assert float(slope @ way) == pytest.approx(float(measured), rel=1e-5)


@pytest.mark.parametrize("image", [(1, 15, 28), (3, 28, 15)])
def test_small_images_are_refused(image):
    with pytest.raises(ValueError, match=r"too small.*16 x 16"):
        lenet_classifier(3, image=image, dtype=torch.float32)
