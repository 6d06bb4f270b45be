import pytest
import torch

from fedstrategies.objectives import LastPoint, LogisticRegression
from fedstrategies.objectives.base import BatchedObjective
from tests.objectives.clients import SIZES, normal, random_clients


class Counting(BatchedObjective):
    """Counts evaluations of the objective it wraps."""

    def __init__(self, inner):
        self.inner, self.calls = inner, []

    def __len__(self):
        return len(self.inner)

    dimension = property(lambda self: self.inner.dimension)
    dtype = property(lambda self: self.inner.dtype)
    num_examples = property(lambda self: self.inner.num_examples)
    stochastic = property(lambda self: self.inner.stochastic)

    def value_and_gradient(self, x, *, clients=None, keys=None):
        self.calls.append("gradient")
        return self.inner.value_and_gradient(x, clients=clients, keys=keys)

    def values(self, x, *, clients=None):
        self.calls.append("values")
        return self.inner.values(x, clients=clients)

    def accuracy(self, x, *, clients=None):
        self.calls.append("accuracy")
        return self.inner.accuracy(x, clients=clients)


@pytest.fixture
def setting():
    inner = Counting(LogisticRegression.stack(random_clients(5, batch_size=3)))
    return LastPoint(inner), inner, normal(5)


def equal(found, expected):
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_same_point_is_evaluated_once(setting):
    remembering, inner, x = setting
    first = remembering.value_and_gradient(x)
    assert equal(remembering.value_and_gradient(x.clone()), first)
    rows = torch.tensor([1, 4])
    assert equal(remembering.value_and_gradient(x, clients=rows), (first[0][rows], first[1][rows]))
    assert torch.equal(remembering.values(x), first[0])
    assert torch.equal(remembering.values(x, clients=rows), first[0][rows])
    assert inner.calls == ["gradient"]
    assert equal(first, inner.inner.value_and_gradient(x))


def test_another_point_is_evaluated_even_if_the_tensor_is_the_same(setting):
    remembering, inner, x = setting
    before = remembering.value_and_gradient(x)
    x += 1.0
    after = remembering.value_and_gradient(x)
    assert inner.calls == ["gradient"] * 2
    assert equal(after, inner.inner.value_and_gradient(x))
    assert not torch.equal(before[0], after[0])


def test_subsets_own_points_and_mini_batches_pass_through(setting):
    remembering, inner, x = setting
    rows, keys = torch.tensor([0, 3]), torch.arange(len(SIZES))
    for options in ({"clients": rows}, {"keys": keys}, {"clients": rows, "keys": keys[:2]}):
        expected = inner.inner.value_and_gradient(x, **options)
        assert equal(remembering.value_and_gradient(x, **options), expected)
        assert equal(remembering.value_and_gradient(x, **options), expected)
    points = x.repeat(len(SIZES), 1)
    remembering.value_and_gradient(points)
    remembering.values(points)
    assert inner.calls == ["gradient"] * 7 + ["values"]
    full = remembering.value_and_gradient(x)
    assert equal(full, inner.inner.value_and_gradient(x))
    assert not equal(remembering.value_and_gradient(x, keys=keys), full)


def test_keys_do_not_defeat_the_memory_of_full_gradients():
    inner = Counting(LogisticRegression.stack(random_clients(5)))
    remembering, x = LastPoint(inner), normal(5)
    first = remembering.value_and_gradient(x)
    assert equal(remembering.value_and_gradient(x, keys=torch.arange(len(SIZES))), first)
    assert inner.calls == ["gradient"]
    assert (len(remembering), remembering.dimension, remembering.dtype) == (
        len(SIZES),
        5,
        torch.float64,
    )
    assert torch.equal(remembering.num_examples, inner.num_examples)
    assert torch.equal(remembering.accuracy(x), inner.inner.accuracy(x))
