"""The published constants: exactly by enumeration at d = 7, statistically at d = 1,000."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch

from fedstrategies.compressors import parse_compressor
from fedstrategies.random import Purpose, client_keys
from tests.compressors import enumerate_operators as by_definition

D = 7
SLACK = 1e-12

OPERATORS = {
    "identity": by_definition.identity,
    "top-k:k=1": by_definition.top(1),
    "top-k:k=3": by_definition.top(3),
    "top-k:k=7": by_definition.top(7),
    "top-k:fraction=0.3": by_definition.top(2),
    "rand-k:k=1": by_definition.rand(1),
    "rand-k:k=3": by_definition.rand(3),
    "rand-k:k=7": by_definition.rand(7),
    "scaled-rand-k:k=2": by_definition.rand(2, scaled=True),
    "scaled-rand-k:k=5": by_definition.rand(5, scaled=True),
    "mix:k=1,k_prime=2": by_definition.mix(1, 2),
    "mix:k=3,k_prime=1": by_definition.mix(3, 1),
    "mix:k=3,k_prime=4": by_definition.mix(3, 4),
    "mix:k=0,k_prime=2": by_definition.mix(0, 2),
    "mix:k=2,k_prime=0": by_definition.mix(2, 0),
    "comp:k=1,k_prime=3": by_definition.comp(1, 3),
    "comp:k=3,k_prime=4": by_definition.comp(3, 4),
    "comp:k=2,k_prime=7": by_definition.comp(2, 7),
    "comp:k=3,k_prime=3": by_definition.comp(3, 3),
    "natural": by_definition.natural,
    "qsgd:levels=1": by_definition.qsgd(1),
    "qsgd:levels=4": by_definition.qsgd(4),
    "cast:float16": by_definition.float16,
    "cast:bfloat16": by_definition.bfloat16,
    "top-k:k=3+natural": by_definition.then(by_definition.top(3), by_definition.natural),
    "top-k:k=4+qsgd:levels=2": by_definition.then(by_definition.top(4), by_definition.qsgd(2)),
    "rand-k:k=2+natural": by_definition.then(by_definition.rand(2), by_definition.natural),
    "scaled-rand-k:k=2+qsgd:levels=1": by_definition.then(
        by_definition.rand(2, scaled=True), by_definition.qsgd(1)
    ),
    "comp:k=2,k_prime=5+cast:bfloat16": by_definition.then(
        by_definition.comp(2, 5), by_definition.bfloat16
    ),
    "top-k:k=5+rand-k:k=2": by_definition.then(by_definition.top(5), by_definition.rand(2)),
    "top-k:k=5+top-k:k=2": by_definition.then(by_definition.top(5), by_definition.top(2)),
    "rand-k:k=5+top-k:k=2": by_definition.then(by_definition.rand(5), by_definition.top(2)),
    "mix:k=1,k_prime=2+natural": by_definition.then(by_definition.mix(1, 2), by_definition.natural),
    "cast:float16+natural": by_definition.then(by_definition.float16, by_definition.natural),
}

_RNG = np.random.default_rng(20)
THIRD = np.full(D, 4 / 3)
EQUAL = np.ones(D)
NEAR_ONE_HOT = np.array([1.0] + [1e-9] * (D - 1))
# No zeros: `by_definition.then` reads index sets off the support.
VECTORS = [
    EQUAL,
    THIRD,
    NEAR_ONE_HOT,
    np.roll(NEAR_ONE_HOT, 3),
    0.6 ** np.arange(D),
    (-0.3) ** np.arange(D)[::-1],
    np.array([2.0, -1.0, 2.0, 1.0, -2.0, 1.0, -1.0]),
    np.array([4 / 3] * 3 + [1e-9] * 4),
    *_RNG.standard_normal((6, D)),
    *(1e-30 * _RNG.standard_cauchy((3, D))),
]


class Moments:
    """Relative moments of an operator at x, from all its outcomes."""

    def __init__(self, outcomes, x):
        weights, vectors = outcomes(x)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        mean = weights @ vectors
        energy = x @ x
        self.bias = sqrt(((mean - x) ** 2).sum() / energy)
        self.variance = weights @ ((vectors - mean) ** 2).sum(axis=1) / energy
        self.mean_gain = (mean**2).sum() / energy
        self.second_moment = weights @ (vectors**2).sum(axis=1) / energy
        self.error = weights @ ((vectors - x) ** 2).sum(axis=1) / energy


@pytest.mark.parametrize("spec", OPERATORS)
def test_constants_bound_every_moment_by_enumeration(spec):
    constants = parse_compressor(spec).constants(D)
    for x in VECTORS:
        at_x = Moments(OPERATORS[spec], x)
        assert at_x.bias <= constants.eta + SLACK
        assert at_x.variance <= constants.omega + SLACK
        assert at_x.mean_gain <= constants.mean_gain + SLACK
        assert at_x.second_moment <= constants.second_moment + SLACK
        assert at_x.error <= constants.error + SLACK
    assert constants.second_moment <= constants.mean_gain + constants.omega + SLACK
    assert constants.error <= constants.eta**2 + constants.omega + SLACK


# Which moments reach their constant, and where.
TIGHT = [
    ("top-k:k=3", EQUAL, ("eta", "error")),
    ("top-k:k=3", NEAR_ONE_HOT, ("mean_gain", "second_moment")),
    ("rand-k:k=3", VECTORS[9], ("eta", "omega", "mean_gain", "second_moment", "error")),
    ("rand-k:k=1", NEAR_ONE_HOT, ("omega", "second_moment")),
    ("scaled-rand-k:k=2", VECTORS[9], ("eta", "omega", "mean_gain", "second_moment", "error")),
    ("mix:k=1,k_prime=2", EQUAL, ("eta", "omega", "error")),
    ("mix:k=1,k_prime=2", NEAR_ONE_HOT, ("mean_gain", "second_moment")),
    ("mix:k=0,k_prime=2", VECTORS[9], ("eta", "omega", "mean_gain", "second_moment")),
    ("comp:k=1,k_prime=3", EQUAL, ("eta",)),
    ("comp:k=1,k_prime=3", NEAR_ONE_HOT, ("omega", "mean_gain", "second_moment", "error")),
    ("comp:k=3,k_prime=4", EQUAL, ("eta", "error")),
    ("natural", THIRD, ("eta", "omega", "mean_gain", "second_moment", "error")),
    ("top-k:k=3+natural", THIRD, ("eta", "error")),
    ("top-k:k=3+natural", VECTORS[7], ("omega", "mean_gain", "second_moment")),
    ("rand-k:k=2+natural", 2 / 7 * THIRD, ("omega", "second_moment")),
    ("top-k:k=5+top-k:k=2", EQUAL, ("eta", "error")),
]
MOMENT_OF = {"eta": "bias", "omega": "variance"}


@pytest.mark.parametrize(("spec", "x", "names"), TIGHT)
def test_constants_called_tight_are_attained(spec, x, names):
    constants = parse_compressor(spec).constants(D)
    at_x = Moments(OPERATORS[spec], x)
    for name in names:
        attained = getattr(at_x, MOMENT_OF.get(name, name))
        assert attained == pytest.approx(getattr(constants, name), rel=1e-7, abs=1e-12), name


def test_natural_omega_is_the_maximum_of_its_variance_curve():
    p = np.linspace(0, 1, 30001)
    curve = p * (1 - p) / (1 + p) ** 2
    assert curve.max() == pytest.approx(1 / 8, abs=1e-9)
    assert p[curve.argmax()] == pytest.approx(1 / 3, abs=1e-4)


def test_formulas_of_the_paper():
    d, k, k_prime = 112, 3, 40
    of = {
        name: parse_compressor(spec).constants(d)
        for name, spec in {
            "top": "top-k:k=3",
            "rand": "rand-k:k=3",
            "scaled": "scaled-rand-k:k=3",
            "mix": "mix:k=3,k_prime=40",
            "comp": "comp:k=3,k_prime=40",
            "qsgd": "qsgd:levels=8",
            "half": "cast:float16",
        }.items()
    }
    expected = {
        "top": (sqrt(1 - k / d), 0, 1, 1),
        "rand": (0, d / k - 1, 1, d / k),
        "scaled": (1 - k / d, k / d * (1 - k / d), (k / d) ** 2, k / d),
        "mix": (
            (d - k - k_prime) / sqrt((d - k) * d),
            k_prime * (d - k - k_prime) / ((d - k) * d),
            1,
            1,
        ),
        "comp": (sqrt((d - k_prime) / d), (k_prime - k) / k, 1, k_prime / k),
        "qsgd": (0, min(d / 64, sqrt(d) / 8), 1, 1 + min(d / 64, sqrt(d) / 8)),
        "half": (2**-11, 0, (1 + 2**-11) ** 2, (1 + 2**-11) ** 2),
    }
    for name, (eta, omega, mean_gain, second_moment) in expected.items():
        assert of[name].eta == pytest.approx(eta, rel=1e-12)
        assert of[name].omega == pytest.approx(omega, rel=1e-12)
        assert of[name].mean_gain == pytest.approx(mean_gain, rel=1e-12)
        assert of[name].second_moment == pytest.approx(second_moment, rel=1e-12)


def test_composition_takes_each_constant_at_its_own_dimension():
    composed = parse_compressor("top-k:k=4+qsgd:levels=2").constants(D)
    assert composed.eta == pytest.approx(sqrt(3 / 7))
    assert composed.omega == pytest.approx(min(4 / 4, sqrt(4) / 2))
    # A contraction survives unbiased rounding of what is kept, however few that are.
    tiny = parse_compressor("top-k:k=1+natural").constants(1000)
    assert tiny.error == pytest.approx(1 - 7 / 8 / 1000)


GROUP_SPECS = [
    "top-k:k=3",
    "rand-k:k=1",
    "rand-k:k=3",
    "scaled-rand-k:k=2",
    "mix:k=1,k_prime=2",
    "comp:k=1,k_prime=3",
    "natural",
    "top-k:k=3+natural",
    "top-k:k=5+rand-k:k=2",
]
CLIENT_VECTORS = [
    _RNG.standard_normal((4, D)),
    np.stack([EQUAL, -EQUAL, EQUAL, -EQUAL]),
    np.tile(NEAR_ONE_HOT, (4, 1)),
    np.stack([NEAR_ONE_HOT, -NEAR_ONE_HOT] * 2),
    np.stack([THIRD] + [1e-9 * EQUAL] * 3),
]


def group_variance(clients, cohort, couple):
    """E||(1/m) sum_S C_i(x_i) - its mean||^2 over all cohorts S and outcomes, times n/sum||x||^2.

    ``couple`` gives the joint outcomes (weights, sum over the members) of a cohort.
    """
    n = len(clients)
    subsets = list(combinations(range(n), cohort))
    second, mean = 0.0, np.zeros(clients.shape[1])
    for subset in subsets:
        weights, sums = couple(clients[list(subset)])
        second += weights @ ((sums / cohort) ** 2).sum(axis=1) / len(subsets)
        mean += weights @ sums / cohort / len(subsets)
    return (second - mean @ mean) * n / (clients**2).sum()


def independently(outcomes):
    def couple(members):
        weights, sums = outcomes(members[0])
        for member in members[1:]:
            more_weights, more = outcomes(member)
            weights = np.outer(weights, more_weights).ravel()
            sums = (sums[:, None] + more[None]).reshape(len(weights), -1)
        return weights, sums

    return couple


def with_shared_draws(outcomes):
    """Outcome number w of every client at once: the enumerators list them in draw order."""

    def couple(members):
        lists = [outcomes(member) for member in members]
        return lists[0][0], np.sum([vectors for _, vectors in lists], axis=0)

    return couple


@pytest.mark.parametrize("spec", GROUP_SPECS)
def test_average_of_independent_operators_with_and_without_participation(spec):
    constants = parse_compressor(spec).constants(D)
    for clients in CLIENT_VECTORS:
        for n, cohort in [(4, 2), (4, 1), (2, 2), (2, 1)]:
            found = group_variance(clients[:n], cohort, independently(OPERATORS[spec]))
            assert found <= constants.group(n, cohort=cohort).omega_av + SLACK


@pytest.mark.parametrize(
    "spec", ["rand-k:k=1", "rand-k:k=3", "scaled-rand-k:k=2", "comp:k=1,k_prime=3"]
)
def test_average_with_shared_randomness(spec):
    constants = parse_compressor(spec).constants(D)
    for clients in CLIENT_VECTORS:
        for cohort in (1, 2, 4):
            group = constants.group(4, cohort=cohort, shared_randomness=True)
            found = group_variance(clients, cohort, with_shared_draws(OPERATORS[spec]))
            assert found <= group.omega_av + SLACK


def test_group_constants_are_attained():
    rand = parse_compressor("rand-k:k=3").constants(D)
    x = np.tile(VECTORS[9], (4, 1))
    independent = group_variance(x[:2], 2, independently(OPERATORS["rand-k:k=3"]))
    assert independent == pytest.approx(rand.group(2).omega_av)
    shared = group_variance(x, 4, with_shared_draws(OPERATORS["rand-k:k=3"]))
    assert shared == pytest.approx(rand.group(4, shared_randomness=True).omega_av)
    signs = np.array([1, -1, 1, -1])[:, None]
    partial = group_variance(x * signs, 2, independently(OPERATORS["rand-k:k=3"]))
    assert partial == pytest.approx(rand.group(4, cohort=2).omega_av)


@pytest.mark.parametrize("spec", GROUP_SPECS)
def test_participation_seen_as_an_operator(spec):
    constants = parse_compressor(spec).constants(D)
    n, cohort = 4, 2
    group = constants.group(n, cohort=cohort)

    def joined(x):
        weights, vectors = OPERATORS[spec](x)
        share = cohort / n
        return (
            np.append(share * weights, 1 - share),
            np.concatenate([vectors / share, np.zeros((1, D))]),
        )

    for x in VECTORS:
        at_x = Moments(joined, x)
        assert at_x.bias <= group.eta + SLACK
        assert at_x.variance <= group.omega + SLACK


@pytest.mark.parametrize(("n", "cohort"), [(4, 5), (4, 0), (0, None)])
def test_impossible_cohorts_are_refused(n, cohort):
    with pytest.raises(ValueError, match="impossible"):
        parse_compressor("identity").constants(D).group(n, cohort=cohort)


DRAWS = 20_000


@pytest.mark.parametrize("spec", OPERATORS)
def test_draws_follow_the_enumerated_distribution(spec):
    x = VECTORS[9]
    weights, outcomes = OPERATORS[spec](x)
    keys = client_keys(5, 3, torch.arange(DRAWS), Purpose.COMPRESSOR)
    drawn = (
        parse_compressor(spec).compress(torch.from_numpy(np.tile(x, (DRAWS, 1))), keys).dense()
    ).numpy()
    # Different draws may give the same vector: compare the distributions of vectors.
    both = np.round(np.concatenate([outcomes, drawn]) / np.abs(outcomes).max(), 12)
    _, label = np.unique(both, axis=0, return_inverse=True)
    weights = np.bincount(label[: len(outcomes)], weights, minlength=label.max() + 1)
    counts = np.bincount(label[len(outcomes) :], minlength=label.max() + 1)
    assert not counts[weights == 0].any(), "a drawn vector is not among the outcomes"
    # Bernstein: a count exceeds this deviation with probability below 2 exp(-18) = 3e-8.
    allowed = 6 * np.sqrt(DRAWS * weights * (1 - weights)) + 12
    assert (np.abs(counts - DRAWS * weights) <= allowed).all()


LARGE = 1000
REPEATS = 600


@pytest.mark.parametrize(
    "spec",
    [
        "top-k:k=10",
        "rand-k:k=50",
        "scaled-rand-k:fraction=0.2",
        "mix:k=10,k_prime=300",
        "comp:k=5,k_prime=100",
        "natural",
        "qsgd:levels=8",
        "cast:float16",
        "cast:bfloat16",
        "top-k:k=100+natural",
        "rand-k:k=100+qsgd:levels=4",
    ],
)
def test_constants_hold_statistically_in_a_large_dimension(spec):
    constants = parse_compressor(spec).constants(LARGE)
    operator = parse_compressor(spec)
    generator = torch.Generator().manual_seed(9)
    gaussian = torch.randn(LARGE, dtype=torch.float64, generator=generator)
    geometric = 0.97 ** torch.arange(LARGE, dtype=torch.float64)
    keys = client_keys(1, 1, torch.arange(REPEATS), Purpose.COMPRESSOR)
    for x in (gaussian, geometric, torch.ones(LARGE, dtype=torch.float64)):
        out = operator.compress(x.repeat(REPEATS, 1), keys).dense()
        energy = float(x @ x)
        squares = (out**2).sum(dim=1) / energy
        errors = ((out - x) ** 2).sum(dim=1) / energy
        for sample, bound in ((squares, constants.second_moment), (errors, constants.error)):
            assert float(sample.mean()) <= bound + 6 * float(sample.std()) / sqrt(REPEATS) + SLACK
        variance = float(((out - out.mean(dim=0)) ** 2).sum() / (REPEATS - 1)) / energy
        noise = 6 * float(errors.std() + squares.std()) / sqrt(REPEATS)
        assert variance <= constants.omega + noise + SLACK
        # ||mean - E||^2 has expectation variance / REPEATS; Chebyshev's factor made generous.
        bias = float((out.mean(dim=0) - x).norm()) / sqrt(energy)
        assert bias <= constants.eta + 3 * sqrt(variance / REPEATS) + SLACK
