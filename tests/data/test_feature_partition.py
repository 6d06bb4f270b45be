import sys

import pytest
import sklearn.cluster
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from fedstrategies.data import DataError, features_partition

CENTRES = torch.tensor([[0.0, 9.0], [50.0, 0.0], [0.0, -60.0], [-70.0, 0.0]])


def blobs(rows_each, *, spread):
    """Rows around four far points, dealt in turn."""
    cluster = torch.arange(4 * rows_each) % 4
    noise = torch.sin(torch.arange(8.0 * rows_each)).reshape(-1, 2)
    return CENTRES[cluster] + spread * noise, cluster


@pytest.mark.parametrize("shape", [(80, 2), (80, 2, 1)])
def test_clusters_that_lie_apart_are_found_in_the_order_of_their_first_rows(shape):
    features, cluster = blobs(20, spread=1.0)
    for seed in range(3):
        shards = features_partition(features.reshape(shape), 4, seed=seed)
        assert [shard.tolist() for shard in shards] == [
            torch.nonzero(cluster == k).flatten().tolist() for k in range(4)
        ]


def test_every_row_is_nearest_to_its_own_clusters_mean():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(300, 3, generator=generator, dtype=torch.float64)
    shards = features_partition(features, 6, seed=1)
    means = torch.stack([features[shard].mean(0) for shard in shards])
    nearest = torch.cdist(features, means).argmin(1)
    for client, shard in enumerate(shards):
        assert nearest[shard].eq(client).float().mean() > 0.98
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(300))


def test_clusters_are_computed_in_one_thread(monkeypatch):
    """Lloyd's sums are split by the number of threads, and the clusters follow their last bits."""
    threads = []

    class Recording(sklearn.cluster.KMeans):
        def fit_predict(self, points):
            threads.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit_predict(points)

    monkeypatch.setattr(sklearn.cluster, "KMeans", Recording)
    with threadpool_limits(2):
        features_partition(blobs(5, spread=1.0)[0], 4)
    assert threads
    assert set(threads) == {1}


def test_what_cannot_be_clustered_is_refused(recwarn, monkeypatch):
    features, _ = blobs(3, spread=0.0)
    with pytest.raises(DataError, match="trees: k-means finds 4 different clusters for 6 clients"):
        features_partition(features, 6, name="trees")
    with pytest.raises(DataError, match=r"trees has features that are indices \(torch.int64\)"):
        features_partition(torch.zeros(9, 4, dtype=torch.int64), 2, name="trees")
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(DataError, match=r'pip install "fedstrategies\[data\]"'):
        features_partition(features, 2)
    assert not recwarn.list


def test_clusters_are_shared_by_neighbouring_clients() -> None:
    features, cluster = blobs(20, spread=1.0)
    shards = features_partition(features, 10, clusters=4, seed=3)
    assert sorted(torch.cat(shards).tolist()) == list(range(len(features)))
    seats = [3, 3, 2, 2]
    first = 0
    for size in seats:
        owners = {int(label) for rows in shards[first : first + size] for label in cluster[rows]}
        assert len(owners) == 1
        counts = [len(rows) for rows in shards[first : first + size]]
        assert max(counts) - min(counts) <= 2
        first += size
    for rows in shards:
        assert bool((rows[1:] > rows[:-1]).all())
    again = features_partition(features, 10, clusters=4, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(shards, again, strict=True))


def test_one_cluster_a_client_is_the_same_as_none_said() -> None:
    features, _ = blobs(20, spread=1.0)
    for one, other in zip(
        features_partition(features, 4), features_partition(features, 4, clusters=4), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("clients", "seats"), [(4, [2, 2]), (10, [2, 8]), (22, [2, 20])])
def test_a_cluster_of_few_rows_leaves_its_clients_to_the_others(
    clients: int, seats: list[int]
) -> None:
    features, cluster = blobs(20, spread=1.0)
    kept = torch.cat([torch.nonzero(cluster == 0).flatten()[:2], torch.nonzero(cluster).flatten()])
    near = features[kept[:22]] * 0.01
    near[:2] += 100
    shards = features_partition(near, clients, clusters=2)
    few = [bool((rows < 2).all()) for rows in shards]
    assert few == [True] * seats[0] + [False] * seats[1]
    assert all(len(rows) >= 1 for rows in shards)
    assert sorted(torch.cat(shards).tolist()) == list(range(22))


def test_impossible_clusters_are_refused() -> None:
    features, _ = blobs(2, spread=1.0)
    for clusters in (0, 9):
        with pytest.raises(DataError, match=f"{clusters} clusters for 4 clients"):
            features_partition(features, 4, clusters=clusters)
