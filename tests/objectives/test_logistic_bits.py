"""One client's bits do not depend on who is evaluated with it."""

import pytest
import torch

from fedstrategies.objectives import LogisticRegression, shards
from fedstrategies.objectives.shards import padded_size
from fedstrategies.random import sample_without_replacement
from tests.objectives.clients import SIZES, normal, random_client, random_clients

EVERYONE = torch.arange(len(SIZES))


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dimension", [1, 5, 112, 113])
def test_alone_in_a_batch_and_in_subsets(dimension):
    clients = random_clients(dimension)
    batched, x = LogisticRegression.stack(clients), normal(dimension, seed=77)
    values, gradients = batched.value_and_gradient(x)
    for row, client in enumerate(clients):
        alone = LogisticRegression.stack([client]).value_and_gradient(x)
        assert_same_bits(alone, (values[row : row + 1], gradients[row : row + 1]))
    for chosen in ([], [3], [0, 7], [1, 2, 6], [3, 6, 9, 11], [2, 3, 4, 5, 9], list(EVERYONE)):
        rows = torch.tensor(chosen, dtype=torch.int64)
        subset = batched.value_and_gradient(x, clients=rows)
        assert_same_bits(subset, (values[rows], gradients[rows]))
        assert torch.equal(batched.values(x, clients=rows), values[rows])


def test_points_of_their_own_equal_the_shared_point():
    clients = random_clients()
    batched, x = LogisticRegression.stack(clients), normal(113, seed=78)
    expected = batched.value_and_gradient(x)
    assert_same_bits(batched.value_and_gradient(x.repeat(len(SIZES), 1)), expected)

    points = normal(len(SIZES), 113, seed=79)
    values, gradients = batched.value_and_gradient(points)
    for row, client in enumerate(clients):
        assert_same_bits(client.value_and_gradient(points[row]), (values[row], gradients[row]))
    rows = torch.tensor([1, 4, 8])
    subset = batched.value_and_gradient(points[rows], clients=rows)
    assert_same_bits(subset, (values[rows], gradients[rows]))


def test_order_and_company_do_not_matter():
    clients, x = random_clients(), normal(113, seed=80)
    values, gradients = LogisticRegression.stack(clients).value_and_gradient(x)
    reordered = LogisticRegression.stack([clients[row] for row in (5, 9, 0, 5, 3)])
    rows = torch.tensor([5, 9, 0, 5, 3])
    assert_same_bits(reordered.value_and_gradient(x), (values[rows], gradients[rows]))


@pytest.mark.parametrize("size", [1, 8, 13, 132])
def test_chunk_length_does_not_matter(size, monkeypatch):
    clients = [random_client(size, 11, seed=seed) for seed in range(30)]
    x = normal(11, seed=81)
    expected = LogisticRegression.stack(clients).value_and_gradient(x)
    for chunk_bytes in (1, 7 * 8 * 11 * size, 29 * 8 * 11 * size):
        monkeypatch.setattr(shards, "_CHUNK_BYTES", chunk_bytes)
        batched = LogisticRegression.stack(clients)
        assert len(list(batched.shards.blocks())) > 1
        assert_same_bits(batched.value_and_gradient(x), expected)


def test_mini_batches_are_the_drawn_rows_and_do_not_depend_on_the_company():
    clients = random_clients(12, batch_size=8)
    batched, x = LogisticRegression.stack(clients), normal(12, seed=82)
    keys = torch.arange(100, 100 + len(SIZES))
    values, gradients = batched.value_and_gradient(x, keys=keys)
    for row, client in enumerate(clients):
        size, key = client.num_examples, keys[row : row + 1]
        draws = sample_without_replacement(key, size, min(8, size))[0]
        drawn = LogisticRegression(
            features=client.features[draws], labels=client.labels[draws], l2=client.l2
        )
        assert_same_bits(drawn.value_and_gradient(x), (values[row], gradients[row]))
        assert_same_bits(client.value_and_gradient(x, key=key), (values[row], gradients[row]))
    for chosen in ([4], [0, 1, 5], [3, 4, 8, 10], [1, 3, 5, 8, 9, 11]):
        rows = torch.tensor(chosen)
        subset = batched.value_and_gradient(x, clients=rows, keys=keys[rows])
        assert_same_bits(subset, (values[rows], gradients[rows]))


def test_keys_choose_the_mini_batch_and_without_them_gradients_are_full():
    clients = random_clients(12, batch_size=8)
    batched, x = LogisticRegression.stack(clients), normal(12, seed=83)
    full = LogisticRegression.stack(random_clients(12))
    assert batched.stochastic
    assert not full.stochastic
    assert_same_bits(batched.value_and_gradient(x), full.value_and_gradient(x))
    assert_same_bits(full.value_and_gradient(x, keys=EVERYONE), full.value_and_gradient(x))
    first, second = (batched.value_and_gradient(x, keys=EVERYONE + s)[0] for s in (0, 1000))
    larger = batched.num_examples > 8
    assert not (first == second)[larger].any()
    assert (first == second)[~larger].all()


def test_mini_batch_gradients_are_unbiased():
    client = random_client(10, 4, seed=1, batch_size=3)
    x = normal(4, seed=84)
    batched = LogisticRegression.stack([client] * 4000)
    _, gradients = batched.value_and_gradient(x, keys=torch.arange(4000))
    error = gradients.mean(dim=0) - client.value_and_gradient(x)[1]
    deviation = gradients.std(dim=0) / 4000**0.5
    assert (error.abs() < 5 * deviation).all()


def test_padding_is_small_and_a_function_of_the_size():
    assert [padded_size(m) for m in (1, 7, 8, 13, 16, 17, 132, 406, 410)] == [
        1, 7, 8, 13, 16, 18, 144, 416, 416,
    ]  # fmt: skip
    for size in range(1, 5000):
        assert size <= padded_size(size) <= size * 1.125
        assert padded_size(padded_size(size)) == padded_size(size)
