"""What the run keeps in memory, against what is free."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedstrategies.experiment.clients import client_fn_of
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem
from fedstrategies.experiment.preparation import Prepared
from fedstrategies.experiment.progress import format_bytes

__all__ = ["MemoryNeed", "check_memory", "memory_need", "warn_of_memory"]

logger = logging.getLogger("flwr")

_TIGHT = 0.8
_MOST_VECTORS, _MOST_COPIES, _LARGEST_NUMBER = 4, 3, 8
"""Of what any method here has clients remember."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes that stay for the whole run; what a round takes on top is of the size of its cohort.

    Attributes
    ----------
    clients, dimension, itemsize : int
        n, d and the bytes of a number.
    vectors : int
        Vectors of length d that each client remembers.
    copies : int
        How often the memories exist on this machine.
    budget : int
        Bytes up to which the server keeps a copy to restore clients from.
    data : int
        Training rows; the clients' shards hold them once more.
    """

    clients: int
    dimension: int
    itemsize: int
    vectors: int
    copies: int
    budget: int
    data: int

    @property
    def memories(self) -> int:
        """One copy of all memories: n d itemsize times the vectors."""
        return self.clients * self.vectors * self.dimension * self.itemsize

    @property
    def total(self) -> int:
        """Of memories and data."""
        return self.copies * self.memories + 2 * self.data


def memory_need(prepared: Prepared) -> MemoryNeed:
    """What the given options take, from the sizes alone: no memory is allocated for it."""
    from fedstrategies.engines import CohortGrid
    from fedstrategies.flower.app import client_app

    config, problem = prepared.config, prepared.problem
    strategy = prepared.method.strategy()
    budget, strategy.memory_budget = strategy.memory_budget, 0
    grid = CohortGrid(client_app(client_fn_of(config)), num_clients=config.clients)
    with _quiet():  # it would say that there is no budget
        strategy.set_up(problem.initial_arrays(), grid)
    rule = strategy.plan(1)[0].rule
    x = strategy.x
    remembered = rule.initial_memory(1, len(x), x.dtype, torch.device("meta"))
    vectors = sum(value.numel() for value in remembered.values()) // len(x)
    need = MemoryNeed(
        clients=config.clients,
        dimension=len(x),
        itemsize=x.itemsize,
        vectors=vectors,
        copies=1,
        budget=budget,
        data=problem.features.nbytes + problem.labels.nbytes,
    )
    # The server's copy is the memory itself in one process; elsewhere clients have theirs beside
    # it, and Flower's driver holds their states and the one in transit.
    beside = {"cohort": 0, "ray": 1}.get(config.backend, 2)
    own = 1 if need.memories <= budget or not beside else 0
    return MemoryNeed(**{**vars(need), "copies": own + beside})


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_memory(need: MemoryNeed, free: int | None) -> Iterator[Finding]:
    """Whether it fits.

    Parameters
    ----------
    need : MemoryNeed
        What the run keeps.
    free : int or None
        Bytes that are available; None: not known.
    """
    if need.vectors:
        times = f" in {need.copies} copies" if need.copies > 1 else ""
        each = f"{need.vectors} x " if need.vectors > 1 else ""
        what = (
            f"client memories {need.clients:,} x {each}{need.dimension:,} x {need.itemsize} bytes"
            f"{times} = {format_bytes(need.copies * need.memories)}, data {format_bytes(need.data)}"
        )
    else:
        what = f"no client memories, d = {need.dimension:,}, data {format_bytes(need.data)}"
    if free is None:
        yield note("memory", f"{what}; this system does not say how much is free")
        return
    advice = (
        "fewer --clients, --dtype float32 or a smaller model; a method without client memory "
        "(gd, fedavg, sppm)"
        if need.vectors
        else "a smaller data set, or a machine with more memory"
    )
    if need.total > free:
        yield problem("memory", f"{what}; {format_bytes(free)} available", advice)
    elif need.total > _TIGHT * free:
        yield note("memory", f"{what}; {format_bytes(free)} available: tight", advice)
    else:
        yield ok("memory", f"{what}; {format_bytes(free)} available")
    if need.memories > need.budget:
        yield note(
            "memory",
            f"memories exceed the server's budget of {format_bytes(need.budget)} for a copy: every "
            "client gets messages (no fast path), and one lost memory resets all",
            "fewer --clients or a smaller model; in Python, memory_budget= of the strategy",
        )


def warn_of_memory(prepared: Prepared, free: int | None) -> None:
    """Log a warning where the run is going to keep more than is free, or nearly.

    Parameters
    ----------
    prepared : Prepared
        The run; nothing of it changes.
    free : int or None
        Bytes that were available before the data were read; None: not known, nothing is said.
    """
    problem = prepared.problem
    data = problem.features.nbytes + problem.labels.nbytes
    most = prepared.config.clients * _MOST_VECTORS * problem.dimension * _LARGEST_NUMBER
    if free is None or _MOST_COPIES * most + 2 * data < _TIGHT * free:
        return  # what the method remembers need not be known
    fits = next(check_memory(memory_need(prepared), free))
    if fits.level != "ok":
        head = "more than is free" if fits.level == "problem" else "nearly all that is free"
        logger.warning("memory: %s: %s -> %s", head, fits.text, fits.advice)
