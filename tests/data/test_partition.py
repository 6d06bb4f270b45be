import pytest
import torch

from fedstrategies.data import (
    PARTITION_EXAMPLES,
    PARTITIONS,
    DataError,
    Dataset,
    contiguous_partition,
    iid_partition,
    partition,
    split_test,
)


def as_lists(shards):
    return [shard.tolist() for shard in shards]


def rows_of(number, **given):
    index = torch.arange(number)
    return Dataset(features=torch.zeros(number, 1), labels=index % 2, name="rows", **given)


@pytest.fixture(scope="module")
def blobs():
    """Three classes, five natural clients and well separated rows, 60 in all."""
    row = torch.arange(60)
    return Dataset(
        features=torch.stack([row * 10.0, row % 7.0], dim=1),
        labels=row % 3,
        name="blobs",
        groups=row % 5,
        group_names=tuple("abcde"),
    )


def test_contiguous_gives_the_remainder_to_the_last():
    assert as_lists(contiguous_partition(11, 4)) == [[0, 1], [2, 3], [4, 5], [6, 7, 8, 9, 10]]


@pytest.mark.parametrize(("rows", "clients"), [(8124, 20), (8124, 1000), (8124, 8124), (7, 1)])
@pytest.mark.parametrize("kind", ["contiguous", "iid"])
def test_shards_cover_every_row_once(kind, rows, clients):
    shards = partition(kind, rows_of(rows), clients, seed=3)
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


@pytest.mark.parametrize("name", PARTITIONS)
def test_every_partition_deals_every_row_once_in_ascending_order(name, blobs):
    spec = PARTITION_EXAMPLES[name]
    shards = partition(spec, blobs, 5, seed=2)
    assert len(shards) == 5
    assert all(shard.dtype == torch.int64 and len(shard) for shard in shards)
    assert all(bool((shard.diff() > 0).all()) for shard in shards)
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(60))
    assert as_lists(partition(spec, blobs, 5, seed=2)) == as_lists(shards)


@pytest.mark.parametrize("name", PARTITIONS)
def test_no_partition_takes_more_clients_than_rows_or_none(name):
    row = torch.arange(4)
    four = Dataset(
        features=torch.eye(4), labels=row % 2, name="four", groups=row, group_names=tuple("abcd")
    )
    for clients, complaint in ((5, "5 clients are more than the 4 rows"), (0, "at least 1, got 0")):
        with pytest.raises(DataError, match=complaint):
            partition(PARTITION_EXAMPLES[name], four, clients)


def test_the_seed_and_the_options_reach_the_partition(blobs):
    for spec in ("iid", "dirichlet:alpha=1,min_size=1", "classes:per_client=2"):
        dealt = {str(as_lists(partition(spec, blobs, 4, seed=seed))) for seed in range(4)}
        assert len(dealt) > 1, spec
    for spec in ("contiguous", "natural", "classes:per_client=2,assignment=deterministic"):
        dealt = {str(as_lists(partition(spec, blobs, 4, seed=seed))) for seed in range(4)}
        assert len(dealt) == 1, spec


@pytest.mark.parametrize("name", PARTITIONS)
def test_overlap_is_for_shards_of_an_order(name, blobs):
    spec = PARTITION_EXAMPLES[name]
    if name in ("contiguous", "iid"):
        assert len(partition(spec, blobs, 5, overlap=2)[0]) == 24
        return
    with pytest.raises(DataError, match=f"contiguous and iid shards; partition '{spec}' has none"):
        partition(spec, blobs, 5, overlap=2)


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
