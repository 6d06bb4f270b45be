"""Pinning of thread pools: torch's own and those of the BLAS libraries that numpy brings.

Two pools that share the cores stall one another (a batched round on two cores ran 15 times
slower with both unpinned), and a threaded matrix-vector product splits its sums by the number
of threads, so its bits depend on the machine. One thread per worker avoids both.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch
from threadpoolctl import OpenBLASController, ThreadpoolController

__all__ = ["single_threaded"]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run the body with one thread in torch and in every BLAS and OpenMP pool.

    The pools are looked for when modules were imported since the last time (libraries come with
    them; looking takes milliseconds), and set when the context is entered. BLAS pools belong to
    the process, so other Python threads see the setting too; OpenMP's number belongs to each
    thread. Contexts may overlap in any order, in several threads too: what was found when the
    first was entered comes back when the last is left, also after an exception, and a thread's
    own number when its last one is.
    """
    own = _own.pin
    with _lock:
        if not _process.depth:
            _process.undo.callback(torch.set_num_threads, torch.get_num_threads())
        _process.enter()
        own.enter()
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _process.leave()
            own.leave()


class _Pin:
    """One thread in the pools of one kind, while at least one context is open."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.depth = 0
        self.undo = ExitStack()

    def enter(self) -> None:
        for pool in _pools(len(sys.modules))[self.kind].lib_controllers:
            number = pool.num_threads
            # Inside of another context: pools that have come since, or that somebody has set.
            if number != 1 or not self.depth:
                self.undo.callback(pool.set_num_threads, number)
                pool.set_num_threads(1)
        self.depth += 1

    def leave(self) -> None:
        self.depth -= 1
        if not self.depth:
            # threadpoolctl 3.8 heeds only the thread that set OpenBLAS first; we may be another.
            _release()
            self.undo.close()
            _release()


class _Own(threading.local):
    """OpenMP's pin of each thread."""

    def __init__(self) -> None:
        self.pin = _Pin("openmp")


# The setting is the process's, so what is to be restored must be too.
_lock = threading.Lock()
_process = _Pin("blas")
_own = _Own()


def _release() -> None:
    """Let any thread set OpenBLAS' number again."""
    release = getattr(OpenBLASController, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)


@lru_cache(maxsize=1)
def _pools(imported_modules: int) -> Mapping[str, ThreadpoolController]:
    found = ThreadpoolController()
    return {kind: found.select(user_api=kind) for kind in ("blas", "openmp")}
