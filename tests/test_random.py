"""Counter-based draws: the integers, their uniformity, and the subset methods."""

import zlib
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from fedstrategies import _splitmix, _subsets
from fedstrategies.random import (
    Purpose,
    client_keys,
    derived_keys,
    integers_below,
    random_bits,
    sample_without_replacement,
    uniforms,
)

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(z):
    """SplitMix64's finaliser on Python integers."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def unsigned(tensor):
    return tensor.numpy().view(np.uint64)


def some_keys(count, seed=1):
    return client_keys(seed, 4, torch.arange(count), Purpose.COMPRESSOR)


def test_random_bits_are_splitmix64s_published_stream():
    # The first outputs of the reference generator seeded with 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert unsigned(random_bits(torch.tensor([1234567]), 4))[0].tolist() == known


def test_keys_agree_with_integer_arithmetic():
    ids = torch.tensor([0, 1, 31, 2**40])
    root = 99
    for part in (int(Purpose.MINIBATCH), 7):
        root = splitmix(root + (part + 1) * GOLDEN)
    expected = [splitmix((i + 1) * GOLDEN + root) for i in ids.tolist()]
    keys = client_keys(99, 7, ids, Purpose.MINIBATCH)
    assert unsigned(keys).tolist() == expected
    derived = [splitmix(key ^ splitmix(4 * GOLDEN)) for key in expected]
    assert unsigned(derived_keys(keys, 3)).tolist() == derived
    assert unsigned(keys).tolist() == expected, "the keys themselves must not change"


def test_numpy_and_torch_arithmetic_give_the_same_integers():
    z = random_bits(some_keys(50), 40)
    assert torch.equal(_splitmix._mix_on_device(z.clone()), _splitmix.mix(z.clone()))


def test_streams_of_seed_round_client_and_purpose_differ():
    keys = torch.stack(
        [
            client_keys(seed, turn, torch.arange(20), purpose)
            for seed in (0, 1, -1)
            for turn in (0, 1, 2)
            for purpose in Purpose
        ]
    )
    assert len(keys.unique()) == keys.numel()
    assert len(torch.stack([derived_keys(keys, j) for j in range(3)]).unique()) == 3 * keys.numel()


def test_uniforms_and_integers_are_uniform():
    draws = uniforms(some_keys(500), 80)
    assert draws.dtype == torch.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(draws, uniforms(some_keys(500), 81)[:, :80]), "longer calls extend"
    for bound in (2, 7, 64):
        counts = torch.bincount(integers_below(some_keys(500), 80, bound).ravel(), minlength=bound)
        assert len(counts) == bound
        chi_square = ((counts - 40_000 / bound) ** 2 / (40_000 / bound)).sum()
        assert chi_square < (bound - 1) + 6 * (2 * (bound - 1)) ** 0.5
    # Neighbouring clients and neighbouring draws are uncorrelated.
    centred = draws - 0.5
    for product in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(product.mean()) < 6 / 12 / product.numel() ** 0.5


METHODS = {
    "floyd": (_subsets.floyd, _subsets.floyd_on_device),
    "smallest hashes": (_subsets.smallest_hashes, _subsets.smallest_hashes_on_device),
    "first distinct": (_subsets.first_distinct, _subsets.first_distinct_on_device),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("population", "count"), [(5, 2), (6, 3), (4, 3), (7, 1)])
def test_every_subset_is_equally_likely(method, population, count):
    draws = 2000
    chosen = METHODS[method][0](some_keys(draws, seed=8), population, count)
    found = dict.fromkeys(combinations(range(population), count), 0)
    for row in chosen.tolist():
        found[tuple(row)] += 1
    cells = comb(population, count)
    chi_square = sum((times - draws / cells) ** 2 for times in found.values()) / (draws / cells)
    assert chi_square < (cells - 1) + 6 * (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("population", "count"), [(5, 2), (112, 20), (40, 39), (3000, 60)])
def test_numpy_and_torch_methods_agree(method, population, count):
    on_cpu, on_device = METHODS[method]
    keys = some_keys(30)
    assert torch.equal(on_cpu(keys, population, count), on_device(keys, population, count))


LARGE = _subsets._LARGE

# All branches: everything, one, Floyd, hashes of few and of many, first distinct.
SIZES = [(9, 9), (9, 0), (112, 1), (112, 5), (112, 32), (112, 56), (112, 111), (5000, 100)]
SIZES += [(LARGE, 4000), (LARGE, LARGE // 8), (LARGE, LARGE - 1), (2**40, 100)]


@pytest.mark.parametrize(("population", "count"), SIZES)
def test_samples_are_ascending_distinct_and_independent_of_the_batch(population, count):
    keys = some_keys(25)
    chosen = sample_without_replacement(keys, population, count)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (25, count)
    assert chosen.is_contiguous()
    assert (chosen.diff(dim=1) > 0).all()
    assert ((chosen >= 0) & (chosen < population)).all()
    for row in range(25):
        alone = sample_without_replacement(keys[row : row + 1], population, count)
        assert torch.equal(alone[0], chosen[row])
    assert sample_without_replacement(keys[:0], population, count).shape == (0, count)


@pytest.mark.parametrize(("population", "count"), [(20, 5), (112, 56), (2000, 50)])
def test_every_element_is_equally_likely(population, count):
    chosen = sample_without_replacement(some_keys(400), population, count)
    counts = torch.bincount(chosen.ravel(), minlength=population).double()
    expected = 400 * count / population
    # Without replacement the statistic shrinks by 1 - count/population.
    chi_square = ((counts - expected) ** 2).sum() / expected / (1 - count / population)
    assert abs(chi_square - population) < 6 * (2 * population) ** 0.5


@pytest.mark.parametrize("share", [0.04, 0.3, 0.97])
def test_a_large_population_is_drawn_from_evenly(share):
    population = 100_000
    count = int(share * population)
    keys = some_keys(8)
    chosen = sample_without_replacement(keys, population, count)
    counts = torch.bincount(chosen.ravel() * 50 // population, minlength=50).double()
    expected = 8 * count / 50
    chi_square = ((counts - expected) ** 2).sum() / (expected * (1 - share))
    assert abs(chi_square - 49) < 6 * (2 * 49) ** 0.5
    # Neighbours are kept together as often as any two.
    together = (chosen.diff(dim=1) == 1).double().mean()
    assert abs(together - (count - 1) / (population - 1)) < 6 * (share / chosen.numel()) ** 0.5
    centre = chosen.double().mean() / population - 0.5
    assert abs(centre) < 6 * ((1 - share) / 12 / chosen.numel()) ** 0.5


@pytest.mark.parametrize(("population", "count"), [(LARGE, 9000), (LARGE + 1, 65_000)])
def test_hashes_of_many_are_the_smallest_of_all(population, count):
    keys = some_keys(2)
    order = np.argsort(random_bits(keys, population).numpy(), axis=1)[:, :count]
    found = _subsets.smallest_hashes(keys, population, count)
    assert (found.numpy() == np.sort(order, axis=1)).all()


@pytest.mark.parametrize("bound", [-(2**63), 2**62])
def test_a_bound_that_admits_too_few_hashes_costs_nothing_but_time(monkeypatch, bound):
    """The guess is off by chance once in millions; here it is off by force."""
    monkeypatch.setattr(_subsets, "_expected_bound", lambda population, count: bound)
    keys = some_keys(2)
    found = _subsets.smallest_hashes(keys, LARGE, 60_000)
    assert torch.equal(found, _subsets.smallest_hashes_on_device(keys, LARGE, 60_000))


def test_bits_are_the_same_however_many_are_mixed_at_a_time():
    keys = some_keys(3)
    count = 2 * _splitmix._BLOCK + 17
    bits = random_bits(keys, count)
    assert torch.equal(bits[:, -5:], random_bits(keys, 5, skip=count - 5))
    assert unsigned(bits)[1, count - 1] == splitmix(int(keys[1]) + count * GOLDEN)
    transposed = bits.clone().T[::2]
    assert torch.equal(_splitmix.mix(transposed), _splitmix._mix_on_device(bits.T[::2]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("population", "count"), SIZES)
def test_a_gpu_draws_the_same_sets(population, count):
    keys = some_keys(4)
    on_gpu = sample_without_replacement(keys.cuda(), population, count)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), sample_without_replacement(keys, population, count))


def test_a_stream_that_runs_short_is_extended():
    """The last of 200 out of 200 takes about 1,200 draws, far above the estimate."""
    everything = _subsets.first_distinct(some_keys(3), 200, 200)
    assert torch.equal(everything, torch.arange(200).expand(3, 200))


FROZEN = {
    5: [[43, 53, 55, 59, 72], [5, 6, 17, 49, 98]],
    40: [[0, 3, 5, 6, 9], [5, 7, 12, 18, 19]],
    50: [[37, 437, 1306, 1585, 1646], [83, 315, 439, 485, 595]],
}


def test_drawn_integers_are_frozen():
    """A change of these numbers changes every experiment and every rand-k message."""
    keys = client_keys(0, 1, torch.arange(2), Purpose.COMPRESSOR)
    assert sample_without_replacement(keys, 112, 5).tolist() == FROZEN[5]
    assert sample_without_replacement(keys, 112, 40)[:, :5].tolist() == FROZEN[40]
    assert sample_without_replacement(keys, 10_000, 50)[:, :5].tolist() == FROZEN[50]


FROZEN_LARGE = {16_000: "52333ec2", 160_000: "e56183fd", 400_000: "bc255c4d"}


@pytest.mark.parametrize("count", FROZEN_LARGE)
def test_large_sets_are_frozen(count):
    keys = client_keys(0, 1, torch.arange(2), Purpose.COMPRESSOR)
    drawn = sample_without_replacement(keys, 1_600_000, count)
    assert f"{zlib.crc32(drawn.numpy().astype('<i8').tobytes()):08x}" == FROZEN_LARGE[count]


@pytest.mark.parametrize("count", [-1, 6])
def test_impossible_samples_are_refused(count):
    with pytest.raises(ValueError, match="of 5 without replacement"):
        sample_without_replacement(some_keys(2), 5, count)
