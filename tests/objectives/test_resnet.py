import pytest
import torch
from torch import nn

from fedstrategies.objectives import TorchObjective, resnet18_classifier
from fedstrategies.pruning import layer_groups

NORMS = ("group", "batch")
NORM_LAYERS = (nn.GroupNorm, nn.BatchNorm2d)


def small(norm="group", *, width=4, image=(3, 8, 8), dtype=torch.float64):
    return resnet18_classifier(3, image=image, width=width, norm=norm, dtype=dtype)


def start_of(module, seed=0):
    """Weights at random, the rest as it is made."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            noise = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            parameter.data = noise * (2 / fan) ** 0.5
    return module


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_network_of_eleven_million_parameters(norm):
    module = resnet18_classifier(10, norm=norm, dtype=torch.float32)
    groups = layer_groups(module)
    assert groups.dimension == 11_173_962
    blocks = [f"stage{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert groups.names == ("stem", *blocks, "output")
    assert groups.classifier == 9
    first = {entry.name for entry in groups.groups[0].entries}
    assert first == {"stem.weight", "stem_norm.weight", "stem_norm.bias"}
    # Two 3 x 3 convolutions and a 1 x 1 shortcut, each with a scale and a shift a channel.
    assert groups.groups[3].size == 9 * (64 + 128) * 128 + 64 * 128 + 6 * 128
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert len([layer for layer in convolutions if layer.kernel_size == (3, 3)]) == 17


@pytest.mark.parametrize("norm", NORMS)
def test_resolutions_and_channels(norm):
    module = resnet18_classifier(5, image=(1, 28, 28), width=4, norm=norm, dtype=torch.float32)
    shapes = []
    for number in (1, 2, 3, 4):
        stage = module.get_submodule(f"stage{number}")
        stage.register_forward_hook(lambda *given: shapes.append(tuple(given[2].shape[1:])))
    assert module(torch.rand(3, 784)).shape == (3, 5)
    assert shapes == [(4, 28, 28), (8, 14, 14), (16, 7, 7), (32, 4, 4)]


def test_a_block_adds_its_input():
    module = start_of(small())
    block, shrinking = module.stage1[0], module.stage2[0]
    signal = torch.rand(2, 4, 8, 8, dtype=torch.float64)
    inside = block.norm2(block.conv2(block.norm1(block.conv1(signal)).relu()))
    torch.testing.assert_close(block(signal), (signal + inside).relu())
    inside = shrinking.norm2(shrinking.conv2(shrinking.norm1(shrinking.conv1(signal)).relu()))
    torch.testing.assert_close(shrinking(signal), (shrinking.shortcut(signal) + inside).relu())
    # With its last scale at zero, a block passes on what it was given (which is no less than 0).
    block.norm2.weight.data.zero_()
    assert torch.equal(block(signal), signal)


@pytest.mark.parametrize("norm", NORMS)
def test_scales_start_at_one_all_else_at_zero_and_no_generator_moves(norm):
    before = torch.random.get_rng_state()
    module = small(norm, dtype=torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    scales = {id(layer.weight) for layer in module.modules() if isinstance(layer, NORM_LAYERS)}
    assert len(scales) == 1 + 2 * 8 + 3
    for parameter in module.parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, torch.full_like(parameter, float(id(parameter) in scales)))


@pytest.mark.parametrize(
    ("width", "groups"),
    [(64, 32), (32, 32 // 2), (16, 8), (48, 16), (6, 2), (5, 1), (2, 1), (1, 1)],
)
def test_groups_of_channels(width, groups):
    module = small(width=width)
    assert module.stem_norm.num_groups == groups
    with torch.no_grad():
        assert bool(torch.isfinite(module(torch.rand(1, 192, dtype=torch.float64))).all())


def test_normalised_by_groups_every_example_is_alone():
    module = start_of(small())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    assert not list(module.buffers())
    rows = torch.rand(5, 192, dtype=torch.float64)
    together = module(rows)
    alone = torch.cat([module(row.unsqueeze(0)) for row in rows])
    torch.testing.assert_close(together, alone)
    # Not all scores are the same, though the last stage has a resolution of 1 x 1.
    assert float(together.detach().std(dim=0).min()) > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_those_of_finite_differences(norm):
    draw = torch.Generator().manual_seed(2)
    f_i = TorchObjective(
        module=start_of(small(norm, width=2)),
        loss=nn.CrossEntropyLoss(),
        data=(torch.rand(6, 192, generator=draw, dtype=torch.float64), torch.arange(6) % 3),
    )
    x = f_i.layout.flatten(f_i.initial_arrays())
    x = x + 0.1 * torch.randn(f_i.dimension, generator=draw, dtype=torch.float64)
    way = torch.randn(f_i.dimension, generator=draw, dtype=torch.float64)
    _, slope = f_i.value_and_gradient(x)
    measured = (f_i.value(x + 1e-7 * way) - f_i.value(x - 1e-7 * way)) / 2e-7
    assert float(slope @ way) == pytest.approx(float(measured), rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_it_learns(norm):
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(24) % 3
    rows = torch.rand(24, 3, 16, 16, generator=draw)
    for row, label in enumerate(labels.tolist()):
        rows[row, label, :, ::2] += 1.0  # the class is the colour of the stripes
    f_i = TorchObjective(
        module=start_of(small(norm, image=(3, 16, 16), dtype=torch.float32)),
        loss=nn.CrossEntropyLoss(),
        data=(rows.flatten(1), labels),
        batch_size=8,
    )
    x = f_i.layout.flatten(f_i.initial_arrays())
    before = float(f_i.value(x))
    for step in range(40):
        x = x - 0.02 * f_i.value_and_gradient(x, key=torch.tensor([step]))[1]
    assert float(f_i.value(x)) < 0.5 * before
    assert float(f_i.accuracy(x)) > 0.9


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"too small.*8 x 8"):
        small(image=(3, 7, 8))
    with pytest.raises(ValueError, match="'layer' is not one of group, batch"):
        small("layer")
