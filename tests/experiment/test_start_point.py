import math

import pytest
import torch

from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.start_point import start_point
from fedstrategies.layout import Layout

LAYOUT = Layout(
    names=("hidden.weight", "hidden.bias", "output.weight"),
    shapes=((60, 40), (60,), (3, 60)),
    dtype=torch.float64,
)


def test_glorot_fills_weight_matrices_uniformly_and_leaves_biases_at_zero():
    parts = LAYOUT.unflatten(start_point("glorot", LAYOUT, 0))
    assert not parts["hidden.bias"].any()
    for name in ("hidden.weight", "output.weight"):
        entries = parts[name]
        bound = math.sqrt(6 / sum(entries.shape))
        assert float(entries.abs().max()) < bound
        assert float(entries.abs().max()) > 0.95 * bound
        # Four standard errors of the mean and of the mean square of a uniform draw.
        error = 4 / math.sqrt(entries.numel())
        assert abs(float(entries.mean())) < error * bound / math.sqrt(3)
        assert float(entries.square().mean()) == pytest.approx(
            bound**2 / 3, rel=error * math.sqrt(4 / 5)
        )


def test_glorot_leaves_vectors_as_the_model_is_made():
    made = torch.arange(LAYOUT.dimension, dtype=torch.float64)
    plain = LAYOUT.unflatten(start_point("glorot", LAYOUT, 0))
    parts = LAYOUT.unflatten(start_point("glorot", LAYOUT, 0, made=made))
    assert torch.equal(parts["hidden.bias"], LAYOUT.unflatten(made)["hidden.bias"])
    for name in ("hidden.weight", "output.weight"):
        assert torch.equal(parts[name], plain[name])
    for text in ("zero", "normal:loc=1"):
        assert torch.equal(start_point(text, LAYOUT, 0, made=made), start_point(text, LAYOUT, 0))


def test_the_point_depends_on_the_seed_and_on_nothing_else():
    state = torch.random.get_rng_state()
    point = start_point("glorot", LAYOUT, 3)
    torch.manual_seed(17)
    assert torch.equal(start_point("glorot", LAYOUT, 3), point)
    assert not torch.equal(start_point("glorot", LAYOUT, 4), point)
    torch.random.set_rng_state(state)
    start_point("normal:loc=1", LAYOUT, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("text", ["zero", "glorot", "normal:loc=2,scale=3"])
def test_precision_is_the_layouts(text):
    single = Layout(names=LAYOUT.names, shapes=LAYOUT.shapes, dtype=torch.float32)
    point = start_point(text, single, 1)
    assert point.dtype == torch.float32
    assert torch.equal(point, start_point(text, LAYOUT, 1).float())


def test_other_texts_are_refused():
    with pytest.raises(ConfigError, match="glorot"):
        start_point("he", LAYOUT, 0)
