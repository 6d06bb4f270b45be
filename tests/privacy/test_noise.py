"""Noise and samples: their laws, and that only the secret gives them away."""

import math

import numpy as np
import pytest
import torch

from fedstrategies.privacy import (
    NoisePurpose,
    PrivacyError,
    Secret,
    fresh_secret,
    noise,
    poisson_sample,
    simulated_secret,
    standard_normals,
    stream_key,
)

SECRET = simulated_secret(0, 0)


def streams(count, *, secret=SECRET, purpose=NoisePurpose.NOISE):
    return [stream_key(secret, counter, purpose) for counter in range(count)]


def kolmogorov_distance(sample):
    """Largest distance between the empirical law and N(0, 1)."""
    ordered = np.sort(sample)
    law = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in ordered])
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    return max(np.abs(law - steps).max(), np.abs(law - steps + 1 / len(ordered)).max())


@pytest.mark.parametrize(("clients", "count"), [(1, 40_000), (400, 100), (40_000, 1)])
def test_normals_are_normal(clients, count):
    sample = standard_normals(streams(clients), count).flatten().numpy()
    # Beyond 1.95 / sqrt(N) with probability 1e-3; the draws are fixed.
    assert kolmogorov_distance(sample) < 1.95 / math.sqrt(len(sample))
    assert abs((sample**2).mean() - 1.0) < 4 * math.sqrt(2.0 / len(sample))
    assert abs((sample**4).mean() - 3.0) < 4 * math.sqrt(96.0 / len(sample))


def test_coordinates_are_uncorrelated():
    sample = standard_normals(streams(20_000), 6).numpy()
    for moment in (sample, sample**2):
        correlations = np.corrcoef(moment.T) - np.eye(6)
        assert np.abs(correlations).max() < 4.5 / math.sqrt(20_000)


def test_neighbouring_coordinates_of_a_long_vector_are_uncorrelated():
    sample = standard_normals(streams(1), 30_000)[0].numpy()
    half = len(sample) // 2
    for lag in (1, 2, half - 1, half, half + 1):
        for moment in (sample, sample**2):
            assert abs(np.corrcoef(moment[lag:], moment[:-lag])[0, 1]) < 4 / math.sqrt(half)


def test_a_stream_has_the_same_bits_in_any_company(monkeypatch):
    keys = streams(9)
    for count in (0, 1, 2, 3, 37):
        together = standard_normals(keys, count)
        assert together.shape == (9, count)
        assert together.dtype == torch.float64
        for place in (0, 4, 8):
            assert torch.equal(standard_normals([keys[place]], count)[0], together[place])
        assert torch.equal(standard_normals(keys[3:5], count), together[3:5])
    monkeypatch.setattr(noise, "_BLOCK", 16)
    long = standard_normals(keys, 50)
    assert torch.equal(standard_normals(keys[7:], 50), long[7:])
    assert len(long.unique()) == long.numel()


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_samples_are_poisson(rate):
    size, repeats = 50, 2000
    keys = streams(repeats, purpose=NoisePurpose.SAMPLE)
    drawn = torch.stack([poisson_sample(key, size, rate) for key in keys]).double()
    deviation = math.sqrt(rate * (1 - rate))
    assert ((drawn.mean(dim=0) - rate).abs() < 4.5 * deviation / math.sqrt(repeats)).all()
    sizes = drawn.sum(dim=1)
    # The size varies as that of independent draws does: sampling without replacement has none.
    assert float(sizes.var()) == pytest.approx(size * deviation**2, rel=0.2)


def test_samples_of_long_shards_and_at_rate_one():
    key = stream_key(SECRET, 0, NoisePurpose.SAMPLE)
    drawn = poisson_sample(key, 100_000, 0.25)
    assert abs(float(drawn.double().mean()) - 0.25) < 4 * math.sqrt(0.1875 / 100_000)
    halves = drawn[:32768], drawn[32768:65536]
    assert not torch.equal(*halves)
    assert poisson_sample(key, 5, 1.0).all()


def test_streams_differ_in_everything_that_names_them():
    base = stream_key(SECRET, 3, NoisePurpose.NOISE, question=b"x")
    assert base == stream_key(SECRET, 3, NoisePurpose.NOISE, question=b"x")
    others = [
        stream_key(simulated_secret(0, 1), 3, NoisePurpose.NOISE, question=b"x"),
        stream_key(simulated_secret(1, 0), 3, NoisePurpose.NOISE, question=b"x"),
        stream_key(SECRET, 4, NoisePurpose.NOISE, question=b"x"),
        stream_key(SECRET, 3, NoisePurpose.SAMPLE, question=b"x"),
        stream_key(SECRET, 3, NoisePurpose.NOISE, question=b"y"),
        stream_key(SECRET, 3, NoisePurpose.NOISE),
    ]
    assert len({base, *others}) == 7
    normals = standard_normals([base, *others], 4000).numpy()
    correlations = np.corrcoef(normals) - np.eye(7)
    assert np.abs(correlations).max() < 4.5 / math.sqrt(4000)


def test_one_bit_of_the_secret_changes_everything():
    flipped = Secret(key=bytes([SECRET.key[0] ^ 1]) + SECRET.key[1:])
    keys = [stream_key(one, 0, NoisePurpose.NOISE) for one in (SECRET, flipped)]
    differing = sum((a ^ b).bit_count() for a, b in zip(*keys, strict=True))
    assert 90 < differing < 166


def test_counters_are_64_bits():
    stream_key(SECRET, 2**64 - 1, NoisePurpose.NOISE)
    for counter in (-1, 2**64):
        with pytest.raises(ValueError, match="release counter"):
            stream_key(SECRET, counter, NoisePurpose.NOISE)


def test_secrets():
    assert fresh_secret() != fresh_secret()
    assert not fresh_secret().simulated
    assert SECRET.simulated
    assert simulated_secret(0, 0) == SECRET
    assert len({simulated_secret(s, p).key for s in range(5) for p in range(5)}) == 25
    assert "key" not in repr(SECRET)
    with pytest.raises(PrivacyError, match="32 bytes, got 3"):
        Secret(key=b"abc")
