import pytest
import torch
from threadpoolctl import threadpool_info

from fedstrategies.threads import single_threaded


def pools():
    return [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]


def test_pools_are_pinned_inside_and_restored_after():
    torch_before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = pools()
        with single_threaded():
            assert torch.get_num_threads() == 1
            assert {threads for _, threads in pools()} <= {1}
        assert torch.get_num_threads() == 2
        assert pools() == before
    finally:
        torch.set_num_threads(torch_before)


def test_pools_are_restored_after_an_exception():
    before = torch.get_num_threads(), pools()
    with pytest.raises(RuntimeError, match="boom"), single_threaded():
        raise RuntimeError("boom")
    assert (torch.get_num_threads(), pools()) == before
