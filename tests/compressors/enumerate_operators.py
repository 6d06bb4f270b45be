"""Every equally likely outcome of each operator, by definition and in plain Python.

The oracle of `test_constants.py`; it shares no code with the package. An outcome list is a pair
(weights, vectors) of shapes (W,) and (W, d), the weights summing to one.
"""

from itertools import combinations, product
from math import floor, frexp, ldexp, sqrt

import numpy as np


def by_magnitude(x):
    return sorted(range(len(x)), key=lambda j: (-abs(x[j]), j))


def uniform_over(x, subsets, gain=1.0):
    """Equal weights on ``gain * x`` restricted to each subset."""
    vectors = np.zeros((len(subsets), len(x)))
    for row, subset in zip(vectors, subsets, strict=True):
        row[list(subset)] = gain * x[list(subset)]
    return np.full(len(subsets), 1 / len(subsets)), vectors


def identity(x):
    return np.ones(1), x[None].copy()


def top(k):
    return lambda x: uniform_over(x, [by_magnitude(x)[:k]])


def rand(k, scaled=False):
    def outcomes(x):
        gain = 1.0 if scaled else len(x) / k
        return uniform_over(x, list(combinations(range(len(x)), k)), gain)

    return outcomes


def mix(k, k_prime):
    def outcomes(x):
        order = by_magnitude(x)
        others = sorted(order[k:])
        return uniform_over(x, [(*order[:k], *extra) for extra in combinations(others, k_prime)])

    return outcomes


def comp(k, k_prime):
    def outcomes(x):
        chosen = sorted(by_magnitude(x)[:k_prime])
        return uniform_over(x, list(combinations(chosen, k)), k_prime / k)

    return outcomes


def independent(x, choices):
    """Product of per-coordinate choices ``[(weight, value), ...]``."""
    weights, vectors = [], []
    for pick in product(*choices):
        weights.append(np.prod([weight for weight, _ in pick]))
        vectors.append([value for _, value in pick])
    return np.array(weights), np.array(vectors)


def natural(x):
    choices = []
    for value in x:
        if value == 0:
            choices.append([(1.0, 0.0)])
            continue
        mantissa, exponent = frexp(abs(value))
        low, high = ldexp(1.0, exponent - 1), ldexp(1.0, exponent)
        up = 2 * mantissa - 1
        sign = 1.0 if value > 0 else -1.0
        choices.append([(1 - up, sign * low), (up, sign * high)] if up else [(1.0, value)])
    return independent(x, choices)


def qsgd(levels):
    def outcomes(x):
        norm = sqrt(sum(value * value for value in x))
        choices = []
        for value in x:
            position = levels * abs(value) / norm if norm else 0.0
            below = min(floor(position), levels)
            up = min(max(position - below, 0.0), 1.0) if below < levels else 0.0
            sign = -1.0 if value < 0 else 1.0
            choices.append(
                [(1 - up, sign * norm * below / levels)]
                + ([(up, sign * norm * (below + 1) / levels)] if up else [])
            )
        return independent(x, choices)

    return outcomes


def float16(x):
    largest = max(abs(value) for value in x)
    shift = frexp(largest)[1] - 15 if largest else 0
    # numpy converts float64 to float16 with a single rounding.
    rounded = np.array([np.float16(ldexp(value, -shift)) for value in x], dtype=np.float64)
    return np.ones(1), np.ldexp(rounded, shift)[None]


def bfloat16(x):
    """For entries in bfloat16's normal range: 8 significant bits."""
    rounded = []
    for value in x:
        mantissa, exponent = frexp(value)
        rounded.append(ldexp(round(mantissa * 256), exponent - 8))
    return np.ones(1), np.array(rounded)[None]


def then(first, second):
    """``second`` on the values at the support of each outcome of ``first``.

    Supports are taken where the outcome is not zero, or everywhere for a full vector; test
    vectors for compositions have no zeros, so this is the set that was sent.
    """

    def outcomes(x):
        weights, vectors = [], []
        for weight, outcome in zip(*first(x), strict=True):
            support = np.flatnonzero(outcome)
            inner_weights, inner = second(outcome[support])
            for inner_weight, values in zip(inner_weights, inner, strict=True):
                vector = np.zeros(len(x))
                vector[support] = values
                weights.append(weight * inner_weight)
                vectors.append(vector)
        return np.array(weights), np.array(vectors)

    return outcomes
