import sys

import numpy as np
import pytest
import torch

from fedstrategies.data import DataError, classes_partition, dirichlet_partition

LABELS = torch.tensor(np.random.default_rng(0).choice([1.0, 4.0, 7.0], size=900, p=[0.5, 0.3, 0.2]))


def drawn(labels, clients, *, alpha, min_size, seed):
    """The shares of each class drawn by hand, and how many draws it took."""
    generator = np.random.default_rng(seed)
    for draw in range(1, 12):
        shards = [[] for _ in range(clients)]
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            shares = np.cumsum(generator.dirichlet(np.full(clients, alpha)))
            for shard, part in zip(
                shards, np.split(rows, (shares * len(rows)).astype(int)[:-1]), strict=True
            ):
                shard.extend(part.tolist())
        if min(map(len, shards)) >= min_size:
            return [sorted(shard) for shard in shards], draw
    return None, draw


def as_lists(shards):
    return [shard.tolist() for shard in shards]


@pytest.mark.parametrize(("alpha", "min_size"), [(0.3, None), (0.5, 20), (0.3, 2)])
def test_dirichlet_shares_are_numpys_for_that_seed(alpha, min_size):
    draws = []
    for seed in range(4):
        expected, draw = drawn(LABELS.numpy(), 8, alpha=alpha, min_size=min_size or 10, seed=seed)
        draws.append(draw)
        shards = dirichlet_partition(LABELS, 8, alpha=alpha, min_size=min_size, seed=seed)
        assert as_lists(shards) == expected
    assert max(draws) > 1, "no draw was repeated: min_size is not put to the test"


def test_a_small_alpha_gives_a_class_to_few():
    def largest_share(alpha):
        shards = dirichlet_partition(LABELS, 5, alpha=alpha, min_size=1, seed=3)
        counts = torch.tensor([[(LABELS[s] == k).sum() for k in (1, 4, 7)] for s in shards])
        return (counts / counts.sum(0)).max(0).values.mean().item()

    assert largest_share(1000.0) < 0.25 < 0.5 < largest_share(0.1)


def test_the_default_size_steps_down_where_ten_rows_cannot_be_had():
    shards = dirichlet_partition(LABELS[:40], 8, alpha=1.0, seed=1)
    sizes = [len(shard) for shard in shards]
    assert sum(sizes) == 40
    assert 1 <= min(sizes) < 10
    expected = next(
        size
        for size in (5, 2, 1)
        if drawn(LABELS[:40].numpy(), 8, alpha=1.0, min_size=size, seed=1)[0]
    )
    assert min(sizes) >= expected


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"clients": 200, "alpha": 0.01}, "fewer than 1 of trees's 900 rows .* larger alpha$"),
        ({"clients": 8, "alpha": 0.5, "min_size": 112}, "than 112 .*or a smaller min_size"),
        ({"clients": 8, "alpha": 0.5, "min_size": 200}, "than 200 .*or a smaller min_size"),
        ({"clients": 8, "alpha": 0.0}, "alpha must be a positive number, got 0"),
        ({"clients": 8, "alpha": 1.0, "min_size": 0}, "min_size must be at least 1, got 0"),
    ],
)
def test_impossible_dirichlet_partitions_are_refused(settings, complaint, recwarn):
    with pytest.raises(DataError, match=complaint) as caught:
        dirichlet_partition(LABELS, name="trees", **settings)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize("per_client", [1, 2, 3])
@pytest.mark.parametrize("assignment", ["first-deterministic", "deterministic"])
def test_each_client_holds_so_many_classes_and_every_row_is_held(per_client, assignment):
    shards = classes_partition(LABELS, 7, per_client=per_client, assignment=assignment, seed=5)
    held = [set(LABELS[shard].tolist()) for shard in shards]
    assert [len(classes) for classes in held] == [per_client] * 7
    values = [1.0, 4.0, 7.0]
    assert all(values[client % 3] in classes for client, classes in enumerate(held))
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(len(LABELS)))
    # The holders of a class share it evenly.
    for value in values:
        sizes = [int((LABELS[shard] == value).sum()) for shard in shards]
        parts = [size for size in sizes if size]
        assert max(parts) - min(parts) <= 1


def test_deterministic_classes_follow_one_another():
    shards = classes_partition(LABELS, 3, per_client=2, assignment="deterministic")
    assert [set(LABELS[s].tolist()) for s in shards] == [{1.0, 4.0}, {4.0, 7.0}, {7.0, 1.0}]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"clients": 5, "per_client": 4}, "trees has 3 classes; .*between 1 and 3"),
        ({"clients": 5, "per_client": 0}, "between 1 and 3"),
        ({"clients": 2, "per_client": 1}, r"leaves 1 of 3 classes of trees \(\d+ rows\) to none"),
        ({"clients": 900, "per_client": 2}, "more of the 900 clients than it has rows"),
        ({"clients": 5, "per_client": 1, "assignment": "fair"}, "unknown assignment 'fair'"),
    ],
)
def test_impossible_class_partitions_are_refused(settings, complaint, recwarn):
    with pytest.raises(DataError, match=complaint) as caught:
        classes_partition(LABELS, name="trees", **settings)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (torch.zeros(12, 3), r"trees has \(3,\) labels a row, not one"),
        (torch.zeros(12), "one label value"),
        (torch.linspace(0, 1, 12), "regression"),
    ],
)
def test_labels_must_be_one_class_a_row(labels, complaint):
    with pytest.raises(DataError, match=complaint):
        dirichlet_partition(labels, 2, alpha=1.0, name="trees")
    with pytest.raises(DataError, match=complaint):
        classes_partition(labels, 2, per_client=1, name="trees")


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_any_integer_is_a_seed(seed):
    shards = dirichlet_partition(LABELS, 4, alpha=1.0, seed=seed)
    assert as_lists(shards) == as_lists(dirichlet_partition(LABELS, 4, alpha=1.0, seed=seed))


@pytest.mark.parametrize("module", ["datasets", "flwr_datasets.partitioner"])
def test_a_missing_package_names_the_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r'pip install "fedstrategies\[data\]"'):
        dirichlet_partition(LABELS, 4, alpha=1.0)
