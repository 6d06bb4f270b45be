import pytest
import torch

from fedstrategies.data import (
    DataError,
    contiguous_partition,
    iid_partition,
    partition,
    split_test,
)


def as_lists(shards):
    return [shard.tolist() for shard in shards]


def test_contiguous_gives_the_remainder_to_the_last():
    assert as_lists(contiguous_partition(11, 4)) == [[0, 1], [2, 3], [4, 5], [6, 7, 8, 9, 10]]


@pytest.mark.parametrize(("rows", "clients"), [(8124, 20), (8124, 1000), (8124, 8124), (7, 1)])
@pytest.mark.parametrize("kind", ["contiguous", "iid"])
def test_shards_cover_every_row_once(kind, rows, clients):
    shards = partition(kind, rows, clients, seed=3)
    assert len(shards) == clients
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(rows))
    sizes = [len(shard) for shard in shards]
    assert sizes[:-1] == [rows // clients] * (clients - 1)


def test_overlap_joins_the_next_shards_and_the_last_clients_share_the_tail():
    own = as_lists(contiguous_partition(11, 4))
    for overlap in (1, 2, 3, 4):
        shards = as_lists(contiguous_partition(11, 4, overlap=overlap))
        for client, shard in enumerate(shards):
            first = min(client, 4 - overlap)
            assert shard == [row for part in own[first : first + overlap] for row in part]
        assert all(shard == shards[-1] for shard in shards[4 - overlap :])


def test_iid_depends_on_the_seed_alone():
    first, again = iid_partition(500, 7, seed=1), iid_partition(500, 7, seed=1)
    assert as_lists(first) == as_lists(again)
    assert as_lists(first) != as_lists(iid_partition(500, 7, seed=2))
    assert as_lists(first) != as_lists(contiguous_partition(500, 7))
    # A shuffled shard of 71 out of 500 rows averages 249.5 with a deviation of about 16.
    assert abs(float(first[0].double().mean()) - 249.5) < 80


def test_iid_overlap_holds_the_shards_of_the_next_clients():
    own = iid_partition(50, 5, seed=4)
    for client, shard in enumerate(iid_partition(50, 5, seed=4, overlap=2)):
        first = min(client, 3)
        assert set(shard.tolist()) == {*own[first].tolist(), *own[first + 1].tolist()}


def test_impossible_partitions_are_refused():
    with pytest.raises(DataError, match="11 clients are more than the 10 rows"):
        contiguous_partition(10, 11)
    with pytest.raises(DataError, match="11 clients are more than the 10 rows"):
        iid_partition(10, 11)
    with pytest.raises(DataError, match="at least 1, got 0"):
        contiguous_partition(10, 0)
    for overlap in (0, 4):
        with pytest.raises(DataError, match=f"overlap .* got {overlap}"):
            contiguous_partition(10, 3, overlap=overlap)
    with pytest.raises(DataError, match="arrives with Scafflix"):
        partition("dirichlet:alpha=0.5", 10, 2)
    with pytest.raises(DataError, match="unknown partition 'random'; known: contiguous, iid"):
        partition("random", 10, 2)


def test_test_rows_are_a_keyed_part_of_every_shard():
    shards = contiguous_partition(100, 3)
    train, test = split_test(shards, test_fraction=0.2, seed=5)
    assert [len(rows) for rows in test] == [6, 6, 6]
    for shard, kept, held_out in zip(shards, train, test, strict=True):
        assert torch.equal(torch.cat([kept, held_out]).sort().values, shard)
    assert as_lists(split_test(shards, test_fraction=0.2, seed=5)[1]) == as_lists(test)
    assert as_lists(split_test(shards, test_fraction=0.2, seed=6)[1]) != as_lists(test)
    # Clients draw from streams of their own.
    assert (test[0] - shards[0][0]).tolist() != (test[1] - shards[1][0]).tolist()


def test_test_fraction_rounds_down_exactly_and_may_be_zero():
    shards = contiguous_partition(100, 1)
    assert len(split_test(shards, test_fraction=0.29)[1][0]) == 29
    train, test = split_test(shards, test_fraction=0.0)
    assert len(test[0]) == 0
    assert torch.equal(train[0], shards[0])


def test_impossible_test_fractions_are_refused():
    shards = contiguous_partition(10, 5)
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="must be in"):
            split_test(shards, test_fraction=fraction)
    with pytest.raises(DataError, match=r"largest shard \(2 rows\) is less than one row"):
        split_test(shards, test_fraction=0.3)
