import pytest
import torch

from fedstrategies.data import DataError, natural_partition

GROUPS = torch.tensor([3, 1, 0, 1, 3, 5, 0, 3, 5])


def test_the_largest_groups_are_the_clients_and_equal_ones_go_by_index():
    expected = [[0, 4, 7], [2, 6], [1, 3], [5, 8]]
    for clients in range(1, 5):
        shards = natural_partition(GROUPS, clients)
        assert [shard.tolist() for shard in shards] == expected[:clients]


def test_ties_go_by_index_among_many_groups():
    groups = torch.arange(600) % 200
    firsts = [int(groups[shard[0]]) for shard in natural_partition(groups, 150)]
    assert firsts == list(range(150))


def test_a_set_without_enough_groups_is_refused():
    with pytest.raises(DataError, match="5 clients are more than the 4 natural clients of trees"):
        natural_partition(GROUPS, 5, name="trees")
    with pytest.raises(DataError, match="trees has no natural clients"):
        natural_partition(None, 1, name="trees")
