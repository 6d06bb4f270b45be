"""The k largest magnitudes with ties by lowest index, on every path."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrategies.compressors import TopK, select
from fedstrategies.compressors.select import largest


def reference(row, k):
    """Sort by magnitude, then index; NaN first of all."""

    def rank(j):
        magnitude = abs(float(row[j]))
        return (0 if magnitude != magnitude else 1, -magnitude if magnitude == magnitude else 0, j)

    return sorted(sorted(range(len(row)), key=rank)[:k])


def device_path(magnitudes, k):
    integer = {torch.float64: torch.int64, torch.float32: torch.int32}[magnitudes.dtype]
    return select._largest_on_device(magnitudes.view(integer), k)


PATHS = [largest, device_path]
ENTRIES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 5e-324, float("inf"), float("nan")])


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_agrees_with_a_plain_sort(path, data):
    d = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, d))
    rows = data.draw(
        st.lists(
            st.lists(ENTRIES | st.floats(allow_nan=False), min_size=d, max_size=d),
            min_size=1,
            max_size=5,
        )
    )
    chosen = path(torch.tensor(rows, dtype=torch.float64).abs(), k)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == [reference(row, k) for row in rows]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batches_with_and_without_ties(path, dtype):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 112, dtype=dtype, generator=generator)
    rows[::2] = (2 * rows[::2]).round()
    for k in (1, 5, 56, 111):
        assert path(rows.abs(), k).tolist() == [reference(row, k) for row in rows.tolist()]


def test_ties_go_to_the_lowest_index():
    row = torch.tensor([[1.0, -3.0, 3.0, -3.0, 0.0, 3.0, 1.0]])
    keys = torch.zeros(1, dtype=torch.int64)
    assert TopK(k=1).compress(row, keys).indices.tolist() == [[1]]
    assert TopK(k=3).compress(row, keys).indices.tolist() == [[1, 2, 3]]
    assert TopK(k=5).compress(row, keys).indices.tolist() == [[0, 1, 2, 3, 5]]


LONG = select._LONG


@pytest.mark.parametrize(
    "row",
    [
        np.random.default_rng(0).standard_normal(LONG + 17),
        np.random.default_rng(1).integers(-3, 4, LONG + 17).astype(float),
        np.zeros(LONG),
        np.where(np.arange(LONG) % 16 == 0, 5.0, np.random.default_rng(2).random(LONG)),
        np.where(np.arange(LONG) % 16 == 0, 0.0, np.random.default_rng(3).random(LONG)),
        np.r_[np.random.default_rng(4).random(LONG), [np.nan] * 5],
    ],
    ids=["normal", "tied", "zero", "misleading-high", "misleading-low", "nan"],
)
@pytest.mark.parametrize("k", [1, 600])
def test_long_rows_are_selected_exactly_whatever_the_sample_says(row, k):
    magnitudes = np.abs(row)
    expected = np.sort(np.argsort(-np.where(np.isnan(row), np.inf, magnitudes), kind="stable")[:k])
    found = largest(torch.from_numpy(np.stack([magnitudes, magnitudes])), k)
    assert (found.numpy() == expected).all()


def test_a_non_contiguous_batch_is_selected_by_its_values():
    rows = torch.rand(9, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(largest(rows.T, 2), largest(rows.T.contiguous(), 2))
