"""The summation rule: one order, whatever the path and the number of workers."""

import tracemalloc

import numpy as np
import pytest
import torch

from fedstrategies import reduce
from fedstrategies.reduce import BLOCK, sum_over_clients, sum_sparse_over_clients

D = 13
COHORTS = {
    "everyone": range(100),
    "one block": range(BLOCK),
    "one client": [70],
    "gaps": [0, 3, 31, 32, 33, 64, 95, 96, 150],
    "late start": range(40, 90),
    "full block count but gaps": [*range(0, 60, 2), 99],
}


def by_definition(rows, ids):
    """Blocks of 32 ids, sequential inside, block sums in block order; numpy scalars."""
    blocks = {}
    for row, identifier in zip(rows, ids, strict=True):
        block = identifier // 32
        blocks[block] = blocks.get(block, np.zeros_like(row)) + row
    total = np.zeros_like(rows[0])
    for block in sorted(blocks):
        total = total + blocks[block]
    return total


@pytest.fixture(params=COHORTS, ids=list(COHORTS))
def cohort(request):
    return torch.tensor(list(COHORTS[request.param]))


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def rows(request, cohort):
    generator = torch.Generator().manual_seed(3)
    magnitude = 10.0 ** torch.randint(-8, 9, (len(cohort), 1), generator=generator)
    return torch.randn(len(cohort), D, generator=generator, dtype=request.param) * magnitude.to(
        request.param
    )


def test_dense_sum_follows_the_rule_bit_for_bit(rows, cohort):
    found = sum_over_clients(rows, cohort)
    assert found.dtype == rows.dtype
    assert (found.numpy() == by_definition(rows.numpy(), cohort.tolist())).all()


@pytest.mark.parametrize("width", [1, 2, D, 40_000])
def test_a_weighted_sum_is_that_of_the_weighted_rows(width, cohort):
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(len(cohort), width, generator=generator)
    weights = torch.rand(len(cohort), generator=generator, dtype=torch.float64)
    expected = by_definition(
        rows.numpy() * weights.to(torch.float32).numpy()[:, None], cohort.tolist()
    )
    assert (sum_over_clients(rows, cohort, weights=weights).numpy() == expected).all()


@pytest.mark.parametrize("width", [1, 2, 3, 31, 112])
@pytest.mark.parametrize("clients", [7, 32, 100, 1000])
def test_the_rule_holds_for_every_width(width, clients):
    """Numpy adds in pairs along the fastest axis, which a narrow vector could make of ours."""
    generator = torch.Generator().manual_seed(width)
    magnitude = 10.0 ** torch.randint(-8, 9, (clients, 1), generator=generator)
    rows = torch.randn(clients, width, generator=generator, dtype=torch.float64) * magnitude
    found = sum_over_clients(rows, torch.arange(clients))
    assert (found.numpy() == by_definition(rows.numpy(), range(clients))).all()
    indices = torch.zeros(clients, 1, dtype=torch.int64)
    sparse = sum_sparse_over_clients(indices, rows[:, :1], width, torch.arange(clients))
    assert sparse[0] == found[0]


def test_the_order_matters_on_this_data():
    """Otherwise the bit-for-bit tests could not fail."""
    ids = torch.arange(100)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(100, D, generator=generator, dtype=torch.float64)
    assert not torch.equal(sum_over_clients(rows, ids), rows.flip(0).cumsum(0)[-1])


@pytest.mark.parametrize("path", [sum_sparse_over_clients, reduce._sum_sparse_on_device])
def test_sparse_sum_equals_the_dense_sum_bit_for_bit(path, rows, cohort):
    generator = torch.Generator().manual_seed(5)
    indices = torch.rand(len(rows), D, generator=generator).argsort(dim=1)[:, :4].sort(dim=1).values
    values = rows.gather(1, indices)
    dense = torch.zeros_like(rows).scatter_(1, indices, values)
    assert torch.equal(path(indices, values, D, cohort), sum_over_clients(dense, cohort))


@pytest.mark.parametrize("path", [sum_sparse_over_clients, reduce._sum_sparse_on_device])
def test_sparse_sum_keeps_the_dtype(path):
    values = torch.ones(3, 1, dtype=torch.float32)
    out = path(torch.zeros(3, 1, dtype=torch.int64), values, 2, torch.arange(3))
    assert out.dtype == torch.float32
    assert out.tolist() == [3.0, 0.0]


def test_workers_that_own_whole_blocks_change_nothing():
    ids = torch.arange(5 * BLOCK)
    rows = torch.randn(len(ids), D, generator=torch.Generator().manual_seed(1)).double() / 3
    whole = sum_over_clients(rows, ids)
    total = torch.zeros(D, dtype=torch.float64)
    for block in range(5):
        mine = slice(block * BLOCK, (block + 1) * BLOCK)
        total = total + sum_over_clients(rows[mine], ids[mine])
    assert torch.equal(total, whole)


def test_absent_clients_count_as_zeros():
    ids = torch.arange(3 * BLOCK)
    rows = torch.randn(len(ids), D, generator=torch.Generator().manual_seed(2)).double()
    present = torch.rand(len(ids), generator=torch.Generator().manual_seed(2)) < 0.4
    zeroed = rows * present.unsqueeze(1)
    assert torch.equal(sum_over_clients(rows[present], ids[present]), sum_over_clients(zeroed, ids))


@pytest.mark.parametrize("everyone", [True, False])
@pytest.mark.parametrize("width", [5, 112, 700])
def test_strips_and_groups_of_blocks_follow_the_rule(monkeypatch, width, everyone):
    """Wide vectors are summed piece by piece; here every piece is a few coordinates."""
    generator = torch.Generator().manual_seed(width)
    ids = torch.arange(200)
    if not everyone:
        ids = ids[torch.rand(200, generator=generator) < 0.3] + 64
    rows = torch.randn(len(ids), width, generator=generator, dtype=torch.float64)
    rows *= 10.0 ** torch.randint(-8, 9, (len(ids), 1), generator=generator)
    indices = torch.rand(len(ids), width, generator=generator).argsort(dim=1)[:, :3].sort().values
    sparse = torch.zeros_like(rows).scatter_(1, indices, rows.gather(1, indices))
    for cache in (1, 8 * width, 8 * 3 * width + 1, 2**20):
        monkeypatch.setattr(reduce, "_CACHE_BYTES", cache)
        found = sum_over_clients(rows, ids)
        assert (found.numpy() == by_definition(rows.numpy(), ids.tolist())).all()
        found = sum_sparse_over_clients(indices, rows.gather(1, indices), width, ids)
        assert (found.numpy() == by_definition(sparse.numpy(), ids.tolist())).all()


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_the_rule_does_not_depend_on_the_rows_layout(layout):
    draw = torch.Generator().manual_seed(4)
    rows = {
        "transposed": torch.randn(7, 64, generator=draw, dtype=torch.float64).T,
        "expanded": torch.randn(7, generator=draw, dtype=torch.float64).expand(64, 7),
        "strided": torch.randn(128, 14, generator=draw, dtype=torch.float64)[::2, ::2],
    }[layout]
    found = sum_over_clients(rows, torch.arange(64))
    assert (found.numpy() == by_definition(rows.numpy(), range(64))).all()


def test_no_zero_is_negative():
    """A lone -0.0 plus the zeros of absent clients is 0.0, on both paths."""
    rows, ids = torch.full((2, 3), -0.0), torch.tensor([5, 40])
    assert not torch.signbit(sum_over_clients(rows, ids)).any()
    indices = torch.zeros(2, 1, dtype=torch.int64)
    assert not torch.signbit(sum_sparse_over_clients(indices, rows[:, :1], 3, ids)).any()


def peak_bytes(call):
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_sums_of_wide_vectors_need_little_more_than_the_result():
    """numpy reports its arrays to tracemalloc. Blocks x d would be 20 times the result."""
    width, ids = 200_000, torch.arange(0, 640, 20)
    rows = torch.ones(len(ids), width, dtype=torch.float64)
    room = 4 * 8 * width + 3 * 2**20
    assert peak_bytes(lambda: sum_over_clients(rows, ids)) < room
    indices = torch.arange(50).expand(len(ids), 50)
    values = torch.ones(len(ids), 50, dtype=torch.float64)
    assert peak_bytes(lambda: sum_sparse_over_clients(indices, values, width, ids)) < room


def test_the_sum_of_nobody_is_zero():
    nobody = torch.zeros(0, dtype=torch.int64)
    assert sum_over_clients(torch.zeros(0, D), nobody).tolist() == [0.0] * D
    none = torch.zeros(0, 2, dtype=torch.int64)
    assert sum_sparse_over_clients(none, torch.zeros(0, 2), D, nobody).tolist() == [0.0] * D


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [1, D])
def test_a_sum_beyond_the_dtype_is_infinite_without_a_warning(width):
    ids = torch.arange(3)
    rows = torch.full((3, width), 1e308, dtype=torch.float64)
    infinite = torch.full((width,), torch.inf, dtype=torch.float64)
    assert torch.equal(sum_over_clients(rows, ids), infinite)
    assert torch.equal(sum_over_clients(rows, ids, weights=torch.full((3,), 1e10)), infinite)
    everywhere = torch.arange(width).expand(3, width).contiguous()
    assert torch.equal(sum_sparse_over_clients(everywhere, rows, width, ids), infinite)
