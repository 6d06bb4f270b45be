import gc
import threading

import pytest
import torch
from threadpoolctl import threadpool_info

from fedstrategies.threads import single_threaded


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """None around these tests, in place of that of all others.

    Actors of earlier tests that ran in this process hold a context until they are collected.
    """
    gc.collect()


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pools(kind=None):
    found = threadpool_info()
    return [(p["filepath"], p["num_threads"]) for p in found if kind in (None, p["user_api"])]


def test_pools_are_pinned_inside_and_restored_after():
    before = pools()
    with single_threaded():
        assert torch.get_num_threads() == 1
        assert {threads for _, threads in pools()} <= {1}
    assert torch.get_num_threads() == 2
    assert pools() == before


def test_pools_are_restored_after_an_exception():
    before = torch.get_num_threads(), pools()
    with pytest.raises(RuntimeError, match="boom"), single_threaded():
        raise RuntimeError("boom")
    assert (torch.get_num_threads(), pools()) == before


def test_contexts_may_overlap_in_any_order():
    before = pools()
    one, other = single_threaded(), single_threaded()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert torch.get_num_threads() == 1
    assert {threads for _, threads in pools()} <= {1}
    other.__exit__(None, None, None)
    assert torch.get_num_threads() == 2
    assert pools() == before


@pytest.mark.parametrize("first_to_leave", ["this", "other"])
def test_contexts_may_overlap_in_two_threads(first_to_leave):
    blas, seen, errors = pools("blas"), {}, []
    entered, leave, left, end = (threading.Event() for _ in range(4))

    def other_thread():
        try:
            torch.set_num_threads(2)
            with single_threaded():
                entered.set()
                leave.wait(10)
                seen["inside"] = torch.get_num_threads()
            left.set()
            end.wait(10)
            seen["after"] = torch.get_num_threads()
        except Exception as error:
            errors.append(error)

    other = threading.Thread(target=other_thread)
    this = single_threaded()
    this.__enter__()
    other.start()
    assert entered.wait(10)
    if first_to_leave == "this":
        this.__exit__(None, None, None)
        assert {threads for _, threads in pools("blas")} <= {1}
        assert torch.get_num_threads() == 2
        leave.set()
        assert left.wait(10)
    else:
        leave.set()
        assert left.wait(10)
        assert torch.get_num_threads() == 1
        assert {threads for _, threads in pools()} <= {1}
        this.__exit__(None, None, None)
    end.set()
    other.join(10)
    assert not errors
    assert seen == {"inside": 1, "after": 2}
    assert torch.get_num_threads() == 2
    assert pools("blas") == blas
