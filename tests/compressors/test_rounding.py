"""The three rounding operators at the edges of floating-point formats."""

from math import inf, ldexp

import numpy as np
import pytest
import torch

from fedstrategies.compressors import QSGD, Cast, Levels, Natural, Powers, Rounded
from fedstrategies.compressors.exponents import power_of_two, times_power_of_two
from fedstrategies.random import Purpose, client_keys

N = 4000


def keys(count=N):
    return client_keys(3, 1, torch.arange(count), Purpose.COMPRESSOR)


def column(value, dtype=torch.float64):
    return torch.full((N, 1), value, dtype=dtype)


EXACT = [0.0, 1.0, -2.0, 0.125, 5e-324, -(2.0**-1030), 2.0**-1022, 2.0**1023, -(2.0**1023)]


@pytest.mark.parametrize("value", EXACT)
def test_natural_keeps_zero_and_powers_of_two(value):
    assert (Natural().compress(column(value), keys()).dense() == value).all()


@pytest.mark.parametrize("value", [3.0, -3.0, 1.2, 3 * 5e-324, -5 * 2.0**-1074, 1.7 * 2.0**-1023])
def test_natural_rounds_to_both_neighbours_without_bias(value):
    out = Natural().compress(column(value), keys()).dense()[:, 0].numpy()
    magnitude = abs(value)
    exponent = np.frexp(magnitude)[1]
    low, high = np.ldexp(1.0, exponent - 1), np.ldexp(1.0, exponent)
    assert set(np.abs(out)) == {low, high}
    assert (np.sign(out) == np.sign(value)).all()
    p = magnitude / low - 1
    share = (np.abs(out) == high).mean()
    assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize(("dtype", "top"), [(torch.float64, 2.0**1023), (torch.float32, 2.0**127)])
def test_natural_never_overflows(dtype, top):
    largest = torch.finfo(dtype).max
    out = Natural().compress(column(-largest, dtype), keys()).dense()
    assert (out == -top).all()


def test_natural_in_float32_covers_subnormals():
    value = 3 * 2.0**-149
    out = Natural().compress(column(value, torch.float32), keys()).dense().double()
    assert set(out[:, 0].tolist()) == {2.0**-148, 2.0**-147}


def test_natural_sends_powers_and_refuses_other_dtypes():
    payload = Natural().compress(torch.randn(5, 9, generator=torch.Generator()), keys(5))
    assert isinstance(payload.values, Powers)
    mantissa, _ = torch.frexp(payload.values.data)
    assert (mantissa.abs() == 0.5).all()
    with pytest.raises(ValueError, match="float64 or float32"):
        Natural().compress(torch.ones(1, 3, dtype=torch.float16), keys(1))


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200, 1e-320])
def test_qsgd_is_scale_free(scale):
    x = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64) * scale
    payload = QSGD(levels=4).compress(x.expand(N, 3), keys())
    assert isinstance(payload.values, Levels)
    assert payload.values.scale[0].item() == pytest.approx(5 * scale, rel=1e-3)
    assert payload.values.levels.abs().max() <= 4
    mean = payload.values.levels.double().mean(dim=0) / 4
    assert torch.allclose(mean, torch.tensor([0.6, -0.8, 0.0]).double(), atol=6 / 4 / N**0.5)


def test_qsgd_of_one_hot_is_exact_at_every_scale():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(N, 3, dtype=torch.float32)
    x[:, 1] = torch.randn(N, generator=generator)
    for levels in (1, 7, 1000):
        assert torch.equal(QSGD(levels=levels).compress(x, keys()).dense(), x)


def test_qsgd_norm_does_not_depend_on_threads():
    x = torch.randn(1, 300_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.get_num_threads()
    scales = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        scales.append(QSGD(levels=2).compress(x, keys(1)).values.scale)
    torch.set_num_threads(before)
    assert torch.equal(*scales)
    assert scales[0].item() == pytest.approx(x.norm().item(), rel=1e-13)


GRIDS = {"float16": (11, -24, np.float16), "bfloat16": (8, -133, None)}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("exponent", [0, -30, 100, -126, 126])
def test_cast_error_is_within_eta(name, dtype, exponent):
    generator = torch.Generator().manual_seed(exponent)
    mantissa = torch.randn(50, 40, generator=generator, dtype=torch.float64)
    spread = torch.randint(-40, 1, (50, 40), generator=generator)
    x = torch.ldexp(mantissa.clamp(-1.9, 1.9), spread.double() + exponent).to(dtype)
    payload = Cast(dtype=name).compress(x, keys(50))
    assert isinstance(payload.values, Rounded)
    out, exact = payload.dense().double(), x.double()
    eta = Cast(dtype=name).constants(40).eta
    scale = exact.abs().amax(dim=1, keepdim=True)
    relative = ((out - exact) / scale).norm(dim=1) / (exact / scale).norm(dim=1)
    assert (relative <= eta).all()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(
    "largest", [1.7976931348623157e308, 1.797e308, 5e-324, 1e-310, 3.4e38, 1e-45, 1.0]
)
def test_cast_is_finite_and_close_at_every_magnitude(name, largest):
    x = torch.tensor([[largest, -largest / 3, largest / 2**20, 0.0]], dtype=torch.float64)
    payload = Cast(dtype=name).compress(x, keys(1))
    assert payload.is_finite()
    assert torch.isfinite(payload.values.data).all()
    assert (payload.dense() - x).abs().max() <= 2.0**-8 * largest


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("value", [3.4028234e38, -3.4028234e38, 2.0**-149])
def test_cast_of_extreme_float32_is_finite_and_within_half_a_unit(name, value):
    x = torch.tensor([[value, value / 7]], dtype=torch.float32)
    out = Cast(dtype=name).compress(x, keys(1)).dense()
    assert out.dtype == torch.float32
    assert ((out - x).double().abs() <= Cast(dtype=name).constants(1).eta * x.double().abs()).all()


def test_cast_refuses_other_dtypes():
    with pytest.raises(ValueError, match="float64 or float32"):
        Cast(dtype="float16").compress(torch.ones(1, 3, dtype=torch.float16), keys(1))


def test_cast_rounds_once_and_ties_to_even():
    """A float64 just above a midpoint is rounded up; through float32 it would become a tie."""
    # The unit above fixes the shift: 2**14 is the scaled largest entry.
    x = torch.tensor([[1.0, 0.5 * (1 + 2.0**-11), 0.5 * (1 + 2.0**-11 + 2.0**-40)]]).double()
    x[0, 2] = 0.5 * (1 + 2.0**-11 + 2.0**-40)
    out = Cast(dtype="float16").compress(x, keys(1)).dense()[0]
    assert out.tolist() == [1.0, 0.5, 0.5 * (1 + 2.0**-10)]


def test_cast_bfloat16_shifts_only_outside_its_range():
    ordinary = torch.tensor([[1e-15, 1e30], [0.0, 0.0], [1e-18, 0.0]], dtype=torch.float64)
    assert not Cast(dtype="bfloat16").compress(ordinary, keys(3)).values.shift.any()
    extreme = torch.tensor([[1e-25], [1e300]], dtype=torch.float64)
    assert Cast(dtype="bfloat16").compress(extreme, keys(2)).values.shift.all()


@pytest.mark.parametrize("name", GRIDS)
def test_cast_sends_numbers_of_its_grid_and_is_idempotent(name):
    x = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    once = Cast(dtype=name).compress(x, keys(20))
    assert once.values.data.dtype == getattr(torch, name)
    again = Cast(dtype=name).compress(once.dense(), keys(20))
    assert torch.equal(again.dense(), once.dense())


@pytest.mark.parametrize(
    ("value", "exponent"),
    [(1.0, 1023), (1.0, -1074), (3.0, -1074), (5e-324, 1000), (2.0**-24, 1009), (1.5, -1022)],
)
def test_scaling_by_powers_of_two_is_exact_over_the_whole_range(value, exponent):
    out = times_power_of_two(torch.tensor([value], dtype=torch.float64), torch.tensor([exponent]))
    assert out.item() == ldexp(value, exponent)


def test_powers_of_two():
    exponents = torch.tensor([-126, -1, 0, 1, 127])
    expected = [2.0**-126, 0.5, 1.0, 2.0, 2.0**127]
    assert power_of_two(exponents, torch.float32).tolist() == expected
    wild = times_power_of_two(torch.ones(2).double(), torch.tensor([10**6, -(10**6)]))
    assert wild.tolist() == [inf, 0.0]
