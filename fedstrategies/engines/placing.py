"""Which GPU each of some reservations goes to, by the rule that Ray follows on a node.

A part of a GPU goes to the fullest one that has room for it, whole GPUs to free ones; nothing
lies across machines, and no part across GPUs. Amounts are in ten-thousandths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fedstrategies.engines.shares import UNITS, Machine, units

__all__ = ["Demand", "Placed", "Seat", "place"]

Demand: TypeAlias = tuple[int, int]
"""CPUs and GPUs of one reservation."""

Seat: TypeAlias = tuple[int, tuple[int, ...]]
"""A machine, and which of its GPUs."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Seats in the order of the demands, and what is free then on each machine."""

    seats: list[Seat]
    cpus: list[int]
    gpus: list[list[int]]


def place(demands: Sequence[Demand], machines: Sequence[Machine]) -> Placed | None:
    """A seat for each demand, one after the other; None where one finds no room.

    The first of equally full GPUs is taken; demands without GPU go to the machine with most CPUs
    free.
    """
    cpus = [units(machine.cpus) for machine in machines]
    gpus = [[UNITS] * machine.gpus for machine in machines]
    seats: list[Seat] = []
    for cpu, gpu in demands:
        candidates = [
            (rank, (index, devices))
            for index in range(len(machines))
            if cpus[index] >= cpu
            for rank, devices in _choices(gpus[index], gpu, free_cpus=cpus[index])
        ]
        if not candidates:
            return None
        _, (index, devices) = min(candidates, key=lambda candidate: candidate[0])
        cpus[index] -= cpu
        for device in devices:
            gpus[index][device] -= min(gpu, UNITS)
        seats.append((index, devices))
    return Placed(seats=seats, cpus=cpus, gpus=gpus)


def _choices(free: Sequence[int], gpu: int, *, free_cpus: int) -> list[tuple[int, tuple[int, ...]]]:
    """GPUs of one machine that a demand may take, each choice with its rank: low ones first."""
    if gpu == 0:
        return [(-free_cpus, ())]
    if gpu <= UNITS:
        return [(room, (device,)) for device, room in enumerate(free) if room >= gpu]
    whole = [device for device, room in enumerate(free) if room == UNITS]
    count = gpu // UNITS
    return [(len(whole), tuple(whole[:count]))] if len(whole) >= count else []
