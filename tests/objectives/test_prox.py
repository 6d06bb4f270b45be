import math

import pytest
import torch

from fedstrategies.objectives import L1, Box, NoProx, SquaredL2, parse_prox
from tests.objectives.clients import normal

EVERY = [NoProx(), L1(0.3), SquaredL2(0.7), Box(0.5)]


@pytest.mark.parametrize("regulariser", EVERY, ids=lambda r: r.spec)
def test_prox_minimises_its_definition(regulariser):
    """R is separable: a fine grid in each coordinate contains no better point."""
    step = 0.8
    x = torch.tensor([-3.0, -0.6, -0.24, -0.1, 0.0, 0.2, 0.5, 1.7], dtype=torch.float64)
    found = regulariser.prox(x, step)
    grid = torch.linspace(-4, 4, 160_001, dtype=torch.float64)
    for start, minimiser in zip(x, found, strict=True):
        pointwise = {
            NoProx: lambda u: torch.zeros_like(u),
            L1: lambda u: 0.3 * u.abs(),
            SquaredL2: lambda u: 0.35 * u * u,
            Box: lambda u: torch.where(u.abs() <= 0.5, 0.0, math.inf),
        }[type(regulariser)]
        best = grid[(pointwise(grid) + (grid - start) ** 2 / (2 * step)).argmin()]
        assert float(minimiser) == pytest.approx(float(best), abs=1e-4)
        assert regulariser.value(minimiser.reshape(1)) == pytest.approx(
            float(pointwise(minimiser)), abs=1e-15
        )


@pytest.mark.parametrize("regulariser", EVERY, ids=lambda r: r.spec)
def test_spec_round_trips_and_leading_axes_are_allowed(regulariser):
    assert parse_prox(regulariser.spec) == regulariser
    batch = normal(4, 6)
    rows = torch.stack([regulariser.prox(row, 0.3) for row in batch])
    assert torch.equal(regulariser.prox(batch, 0.3), rows)


def test_values():
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert NoProx().value(x) == 0
    assert L1(0.5).value(x) == 1.5
    assert SquaredL2(0.5).value(x) == 1.25
    assert Box(2.0).value(x) == 0
    assert Box(1.9).value(x) == math.inf


@pytest.mark.parametrize(
    "spec", ["l3:1", "l1", "l1:", "l1:x", "l1:0", "l1:-1", "l1:inf", "box:nan", "none:1", ""]
)
def test_wrong_specs_are_refused(spec):
    with pytest.raises(ValueError, match="prox"):
        parse_prox(spec)
