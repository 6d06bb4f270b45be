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


def device_path(vectors, k):
    integer = {torch.float64: torch.int64, torch.float32: torch.int32}[vectors.dtype]
    return select._largest_on_device(vectors.view(integer), k)


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
    chosen = path(torch.tensor(rows, dtype=torch.float64), k)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == [reference(row, k) for row in rows]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batches_with_and_without_ties(path, dtype):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 112, dtype=dtype, generator=generator)
    rows[::2] = (2 * rows[::2]).round()
    for k in (1, 5, select._FEW, select._FEW + 1, 56, 111):
        assert path(rows, k).tolist() == [reference(row, k) for row in rows.tolist()]


def test_ties_go_to_the_lowest_index():
    row = torch.tensor([[1.0, -3.0, 3.0, -3.0, 0.0, 3.0, 1.0]])
    keys = torch.zeros(1, dtype=torch.int64)
    assert TopK(k=1).compress(row, keys).indices.tolist() == [[1]]
    assert TopK(k=3).compress(row, keys).indices.tolist() == [[1, 2, 3]]
    assert TopK(k=5).compress(row, keys).indices.tolist() == [[0, 1, 2, 3, 5]]


LONG = select._LONG


def reference_of_long(row, k):
    """A stable sort of magnitudes, NaN as infinity (rows with both are not given)."""
    magnitudes = np.where(np.isnan(row), np.inf, np.abs(row))
    return np.sort(np.argsort(-magnitudes, kind="stable")[:k])


def few_nonzero(count):
    row = np.zeros(LONG)
    row[:: LONG // count] = np.random.default_rng(count).standard_normal(len(row[:: LONG // count]))
    row[1::7] = -0.0
    return row


ROWS = {
    "normal": np.random.default_rng(0).standard_normal(LONG + 17),
    "tied": np.random.default_rng(1).integers(-3, 4, LONG + 17).astype(float),
    "zero": np.zeros(LONG),
    "misleading-high": np.where(
        np.arange(LONG) % 16 == 0, 5.0, np.random.default_rng(2).random(LONG)
    ),
    "misleading-low": np.where(
        np.arange(LONG) % 16 == 0, 0.0, np.random.default_rng(3).random(LONG)
    ),
    "nan": np.r_[np.random.default_rng(4).standard_normal(LONG), [np.nan] * 5],
    "infinite": np.r_[[-np.inf] * 700, np.random.default_rng(5).standard_normal(LONG)],
    "few-nonzero": few_nonzero(100),
    "more-nonzero": few_nonzero(2000),
    "denormal": np.random.default_rng(6).integers(-5, 6, LONG) * np.float64(2.0**-149),
    "short": np.random.default_rng(7).standard_normal(LONG - 1),
    "several-blocks": np.random.default_rng(8).standard_normal(3 * 2**17 + 5).round(3),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("k", [1, 7, 600, LONG // 8, LONG // 8 + 1, LONG - 2])
def test_long_rows_are_selected_exactly_whatever_the_sample_says(name, dtype, k):
    row = torch.from_numpy(ROWS[name]).to(dtype)
    expected = reference_of_long(row.double().numpy(), k)
    found = largest(torch.stack([row, -row]), k)
    assert found.dtype == torch.int64
    assert (found.numpy() == expected).all()


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes_on_both_sides_of_every_threshold(seed):
    rng = np.random.default_rng(seed)
    block = select._BLOCK_BYTES // 8
    for dimension in (1, 2, 33, 112, 4097, LONG - 1, LONG, block - 1, block + 1):
        clients = int(rng.integers(1, 1 + max(1, min(700, 200_000 // dimension))))
        rows = rng.standard_normal((clients, dimension))
        if rng.random() < 0.5:
            rows = rows.round(1)
        k = int(rng.choice([1, select._FEW, select._FEW + 1, dimension // 8, dimension // 2]))
        k = min(max(k, 1), dimension)
        found = largest(torch.from_numpy(rows), k).numpy()
        expected = np.sort(np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :k], axis=1)
        assert (found == expected).all(), (dimension, clients, k)


def test_the_vectors_are_left_as_they_were():
    rows = torch.randn(5, LONG, generator=torch.Generator().manual_seed(3))
    before = rows.clone()
    for k in (1, 9, LONG // 2):
        largest(rows, k)
        largest(rows[:, :50], min(k, 50))
    assert torch.equal(rows, before)


def test_no_rows():
    assert largest(torch.zeros(0, 7), 3).shape == (0, 3)
    assert largest(torch.zeros(0, LONG), 3).shape == (0, 3)


def test_a_non_contiguous_batch_is_selected_by_its_values():
    rows = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(largest(rows.T, 2), largest(rows.T.contiguous(), 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ROWS)
def test_a_gpu_selects_the_same_entries(name):
    row = torch.from_numpy(ROWS[name]).float()[None]
    for k in (1, 600, LONG // 2):
        found = largest(row.cuda(), k)
        assert found.is_cuda
        assert torch.equal(found.cpu(), largest(row, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="float64 or float32 vectors"):
        largest(torch.ones(1, 3, dtype=dtype), 1)
