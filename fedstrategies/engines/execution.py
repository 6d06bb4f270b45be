"""How the steps of many clients are computed: how many at a time, and in how many threads.

A rule is pure and batch-first, and every row has the same bits in any batch. So the work may be
divided in any way, and the way may be chosen by the clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.engines.gathering import Gathering
from fedstrategies.flower import ClientRule
from fedstrategies.flower.on_device import step_on_device
from fedstrategies.objectives import BatchedObjective
from fedstrategies.objectives.last_point import without_memory

__all__ = ["Execution", "available_cores"]

_LOOPED_BYTES = 2**20
"""Models of one chunk where clients are evaluated in turn: they should stay in a core's cache
over the local steps. A model larger than this is alone in its chunk."""

_BATCHED_BYTES = 4 * 2**20
"""The same where one kernel evaluates all. 400 clients of 30,730 float32, five local steps, took
0.91 s one by one, 0.32 s with 2 to 4 MiB of models at a time, 0.45 s with 8, 0.65 s with all."""

_DEVICE_BYTES = 2**29
"""The same on an accelerator, which a few clients would leave idle."""

_LEAST_BYTES = 2**20
"""For the sake of more threads alone no chunk is made smaller than this."""

_SAMPLE = 2
"""Chunks for each thread when the pool is measured."""

_REPEATS, _LONG_ENOUGH = 3, 0.5
"""How often short work is timed, and the seconds of timing after which it is not repeated."""

_Chunk: TypeAlias = slice
_Work: TypeAlias = Callable[[_Chunk], None]


def available_cores() -> int:
    """Cores this process may run on: its affinity where the system tells it, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Execution:
    """Computes the steps of a cohort, chunk by chunk, in one thread or several.

    Objectives that are `looped` go through all their local steps client by client (a few at a
    time where models are small), while model and data are in the core's cache; a batched kernel
    takes as many clients as keeps its temporaries bounded. Objectives that are `concurrent` may
    run in a pool of threads, which torch and numpy leave free to run side by side. Whether they
    do is measured once for each kind of rule: the same chunks are computed in one thread and
    in the pool, and the pool is kept if it was faster. Gradients that the objective remembers
    (round 1 starts where f was recorded) are computed while it is measured, for most rounds have
    to. The bits are the same either way.

    Threads inside torch and BLAS must be pinned to one by the caller
    (`fedstrategies.threads.single_threaded`).

    Parameters
    ----------
    workers : int or None
        Threads at most; None: `available_cores`.
    chunk : int or None
        Clients at a time; None: as many as their models' bytes suggest. On an accelerator no
        more than these are at work at all: what a client was promised is a share of its memory.
        On the CPU each thread has as many.

    Raises
    ------
    ValueError
        If a number is below 1.
    """

    def __init__(self, *, workers: int | None = None, chunk: int | None = None) -> None:
        for name, value in (("workers", workers), ("chunk", chunk)):
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: at least 1 is needed, or None")
        self.workers = available_cores() if workers is None else workers
        self.chunk = chunk
        self.pooled: dict[type, bool] = {}
        """Whether the pool was faster, by class of rule; classes not measured yet are absent."""
        self._pool: ThreadPoolExecutor | None = None
        _keep_freed_memory()

    def run(
        self,
        rule: ClientRule,
        memory: Mapping[str, Tensor],
        x: Tensor,
        objective: BatchedObjective,
        keys: Tensor,
        *,
        clients: Tensor,
    ) -> tuple[Payload, Tensor]:
        """``rule.step`` of some clients: messages and losses in their order.

        Parameters
        ----------
        rule : ClientRule
            One for all; an `IndividualRule` has a row for each row of ``objective``.
        memory : mapping
            Shape (n, d) each.
        x : Tensor
            What the clients are sent.
        objective : BatchedObjective
            The n clients' f_i.
        keys : Tensor
            int64, shape (C,).
        clients : Tensor
            int64, shape (C,), ascending: rows of ``memory`` and ``objective``.

        Raises
        ------
        Exception
            What a client's step raises, as it is: that of the first of them in order.
        """
        alone, together = self._plans(objective, len(clients))
        if len(together) > 1:
            gathering = Gathering(len(clients))

            def work(chunk: _Chunk, asked: BatchedObjective = objective) -> None:
                found = step_on_device(rule, memory, x, asked, keys[chunk], clients=clients[chunk])
                gathering.put(chunk.start, *found)

            several, done = self._threads(objective) > 1, 0
            if several and type(rule) not in self.pooled:
                afresh = partial(work, asked=without_memory(objective))
                done = self._measure(type(rule), afresh, alone, together)
            if several and self.pooled[type(rule)]:
                self._side_by_side(work, _from(done, together))
                return gathering.result()
            if done or len(alone) > 1:
                _in_turn(work, _from(done, alone))
                return gathering.result()
        everyone = None if len(clients) == len(objective) else clients
        return step_on_device(rule, memory, x, objective, keys, clients=everyone)

    def close(self) -> None:
        """End the threads; the next run that needs them starts new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _threads(self, objective: BatchedObjective) -> int:
        # Shares of a GPU are shares of its memory, of which several chunks would take several.
        shared = self.chunk is not None and objective.device.type != "cpu"
        return self.workers if objective.concurrent and not shared else 1

    def _plans(
        self, objective: BatchedObjective, clients: int
    ) -> tuple[list[_Chunk], list[_Chunk]]:
        """The chunks for one thread, and those for all."""
        if self.chunk is not None:
            chunks = _split(clients, -(-clients // self.chunk))
            return chunks, chunks
        model = objective.dimension * objective.dtype.itemsize
        most = _LOOPED_BYTES if objective.looped else _BATCHED_BYTES
        if objective.device.type != "cpu" and not objective.looped:
            most = _DEVICE_BYTES
        count = -(-clients // max(1, most // model))
        threads = self._threads(objective)
        # A multiple of the threads, so that none is left with the odd chunk.
        useful = max(1, clients * model // _LEAST_BYTES)
        shared = min(-(-count // threads) * threads, max(count, useful), clients)
        return _split(clients, count), _split(clients, shared)

    def _measure(
        self, kind: type, work: _Work, alone: Sequence[_Chunk], together: Sequence[_Chunk]
    ) -> int:
        """Note whether the pool does the first chunks sooner than one thread.

        Returns the number of clients that are done with it.
        """
        sample = together[: _SAMPLE * self.workers]
        done: int = sample[-1].stop
        same = [slice(chunk.start, min(chunk.stop, done)) for chunk in alone if chunk.start < done]
        # Untimed: threads start, modules are replicated for them, what is lazy is solved for.
        self._side_by_side(work, sample)
        ones, manys = list[float](), list[float]()
        while len(ones) < _REPEATS and sum(ones) + sum(manys) < _LONG_ENOUGH:
            ones.append(_seconds(lambda: _in_turn(work, same)))
            manys.append(_seconds(lambda: self._side_by_side(work, sample)))
        self.pooled[kind] = min(manys) < min(ones)
        return done

    def _side_by_side(self, work: _Work, chunks: Sequence[_Chunk]) -> None:
        if self._pool is None:
            # torch's number of threads is each thread's own until it is set there.
            self._pool = ThreadPoolExecutor(
                self.workers, "fedstrategies", torch.set_num_threads, (1,)
            )
        futures = [self._pool.submit(work, chunk) for chunk in chunks]
        try:
            for future in futures:
                future.result()
        finally:
            # After an error nobody may still be at work on the caller's tensors.
            for future in futures:
                future.cancel()
            wait(futures)


def _in_turn(work: _Work, chunks: Sequence[_Chunk]) -> None:
    for chunk in chunks:
        work(chunk)


def _from(first: int, chunks: Sequence[_Chunk]) -> list[_Chunk]:
    """What of some chunks lies at ``first`` and after."""
    return [slice(max(c.start, first), c.stop) for c in chunks if c.stop > first]


def _split(clients: int, count: int) -> list[_Chunk]:
    """Chunks of equal length, or one client longer than the last."""
    bounds = [clients * i // count for i in range(count + 1)] if count else []
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _keep_freed_memory() -> None:
    """Make glibc keep what a step frees for the next one.

    It gives freed memory back to the system beyond a size that it learns, twice that of the
    largest block that was mapped and freed; the pages of models and gradients then have to be
    had, and zeroed, again in every step. A block as large as it can learn from (32 MiB), which is
    never touched, costs nothing. Other allocators have nothing to learn from it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
