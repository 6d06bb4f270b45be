"""Pinning of thread pools: torch's own and those of the BLAS libraries that numpy brings.

Two pools that share the cores stall one another (a batched round on two cores ran 15 times
slower with both unpinned), and a threaded matrix-vector product splits its sums by the number
of threads, so its bits depend on the machine. One thread per worker avoids both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded"]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run the body with one thread in torch and in every BLAS and OpenMP pool.

    The pools are looked for when modules were imported since the last time (libraries come with
    them; looking takes milliseconds), set when the context is entered,
    and set back on leaving, also after an exception. The setting belongs to the process: other
    Python threads see it too.
    """
    threads_before = torch.get_num_threads()
    with _pools(len(sys.modules)).limit(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)


@lru_cache(maxsize=1)
def _pools(imported_modules: int) -> ThreadpoolController:
    return ThreadpoolController()
