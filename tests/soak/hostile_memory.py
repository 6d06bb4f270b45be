"""What a call allocates: Python's and numpy's memory, and torch's, which Python does not see."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

__all__ = ["TorchBytes", "peak_of", "traced"]


class TorchBytes(TorchDispatchMode):
    """Adds up the storages that torch makes while it is in force.

    A sum, not a peak: what is freed on the way counts as well, so the figure is an upper bound.

    Attributes
    ----------
    made : int
        Bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what is new."""
        known = {
            one.untyped_storage().data_ptr()
            for one in tree_flatten((args, kwargs or {}))[0]
            if isinstance(one, torch.Tensor)
        }
        found = func(*args, **(kwargs or {}))
        for one in tree_flatten(found)[0]:
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if storage.data_ptr() not in known:
                    known.add(storage.data_ptr())
                    self.made += storage.nbytes()
        return found


@contextmanager
def traced() -> Iterator[None]:
    """tracemalloc at work, so that `peak_of` can be called."""
    with TorchBytes():
        torch.zeros(1)  # the first time torch imports half of itself, which is nobody's message
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that a call takes at most: tracemalloc's peak, and all that torch made.

    Within `traced`: tracemalloc sees what is allocated while it is on.
    """
    gc.collect(0)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with TorchBytes() as torch_bytes:
        call()
    return tracemalloc.get_traced_memory()[1] - before + torch_bytes.made
