from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedstrategies.sampling import (
    StratifiedSampling,
    balanced_strata,
    contiguous_strata,
    feature_means,
    kmeans_strata,
    label_histograms,
)


def two_clouds(sizes: tuple[int, int]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    near = torch.randn(sizes[0], 2, generator=draw)
    far = torch.randn(sizes[1], 2, generator=draw) + 50
    return torch.cat([near, far]).double()


def test_kmeans_finds_the_clouds() -> None:
    assert kmeans_strata(two_clouds((3, 5)), 2) == ((0, 1, 2), (3, 4, 5, 6, 7))


def test_balanced_strata_fill_their_rooms_with_the_nearest() -> None:
    groups = balanced_strata(two_clouds((3, 5)), 2)
    assert [len(group) for group in groups] == [4, 4]
    assert set(groups[0]) > {0, 1, 2}
    assert balanced_strata(two_clouds((4, 4)), 2) == ((0, 1, 2, 3), (4, 5, 6, 7))
    uneven = balanced_strata(two_clouds((3, 6)), 2)
    assert uneven == ((0, 1, 2, 3), (4, 5, 6, 7, 8)) or sorted(map(len, uneven)) == [4, 5]


def test_groups_are_the_same_twice() -> None:
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(4)).double()
    assert kmeans_strata(points, 6, seed=2) == kmeans_strata(points, 6, seed=2)
    groups = balanced_strata(points, 6, seed=2)
    assert sorted(map(len, groups)) == [6, 6, 7, 7, 7, 7]
    assert StratifiedSampling(strata=groups).size(40) == 6


def test_similar_clients_in_a_stratum_lower_the_variance() -> None:
    points = two_clouds((4, 4))
    alike = StratifiedSampling(strata=balanced_strata(points, 2)).variance(points)
    mixed = StratifiedSampling(strata=((0, 1, 4, 5), (2, 3, 6, 7))).variance(points)
    assert alike < 0.01 * mixed


def test_contiguous_strata() -> None:
    assert contiguous_strata(8, 3) == ((0, 1, 2), (3, 4, 5), (6, 7))


def test_signatures() -> None:
    histograms = label_histograms([torch.tensor([0, 0, 2]), torch.tensor([1])], 3)
    torch.testing.assert_close(histograms, torch.tensor([[2 / 3, 0, 1 / 3], [0, 1, 0]]).double())
    rows = [torch.tensor([[1.0, 3.0], [3.0, 5.0]]), torch.tensor([[0.0, 1.0]])]
    assert feature_means(rows).tolist() == [[2.0, 4.0], [0.0, 1.0]]


@pytest.mark.parametrize("group", [kmeans_strata, balanced_strata])
def test_signatures_that_cannot_be_compared_are_refused(group: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"^the signature of client 1 is not finite$"):
        group(torch.tensor([[0.0], [float("nan")], [1.0]]), 2)
    with pytest.raises(ValueError, match=r"^signatures have shape \(4,\)"):
        group(torch.ones(4), 2)


def test_clients_without_a_signature_are_refused() -> None:
    some, none = torch.tensor([0, 1]), torch.tensor([], dtype=torch.int64)
    with pytest.raises(ValueError, match="client 1 has no examples"):
        label_histograms([some, none], 2)
    with pytest.raises(ValueError, match="client 1 has no examples"):
        feature_means([torch.ones(2, 3), torch.ones(0, 3)])
    with pytest.raises(ValueError, match="client 0 has labels from 0 to 1; with 1 classes"):
        label_histograms([some], 1)
    with pytest.raises(ValueError, match="client 0 has labels from -1 to 0"):
        label_histograms([some - 1], 2)


def test_too_few_different_signatures_are_refused() -> None:
    with pytest.raises(ValueError, match="2 different signatures, too few for 3 strata"):
        kmeans_strata(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), 3)
    with pytest.raises(ValueError, match="5 strata of 4 clients"):
        contiguous_strata(4, 5)
