"""What one client holds while it works, in parts of CPUs and GPUs, and what there is of them.

Ray counts in ten-thousandths; so do these modules, and round reservations down, so that k actors
at 1/k of a GPU fit on it for every k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = [
    "UNITS",
    "Machine",
    "PackingError",
    "Share",
    "flower_pool",
    "shares_of",
    "stranded",
    "units",
]

UNITS = 10_000
"""Ray's resolution: ten-thousandths of a CPU or GPU."""


class PackingError(ValueError):
    """Shares that are impossible, or do not fit: one line with the numbers."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a node has: CPUs and whole GPUs."""

    cpus: float
    gpus: int = 0

    def __str__(self) -> str:
        """For messages."""
        return f"{self.cpus:g} CPUs and {self.gpus} GPUs"


@dataclass(frozen=True, kw_only=True, order=True)
class Share:
    """What one client holds while it works; ordered by GPUs, then CPUs.

    Attributes
    ----------
    gpus : float
        A part of one GPU, 0, or a whole number.
    cpus : float
        A part of a CPU, or a whole number; above 0.

    Raises
    ------
    PackingError
        If an amount is neither.
    """

    gpus: float = 0.0
    cpus: float = 1.0

    def __post_init__(self) -> None:
        for name, amount in (("cpus", self.cpus), ("gpus", self.gpus)):
            if not 0.0 <= amount < float("inf"):
                raise PackingError(f"{name} per client: {amount:g} is not a number from 0 up")
            if amount > 1 and amount != int(amount):
                raise PackingError(
                    f"{name} per client: {amount:g} is above 1 and must then be whole"
                )
            if 0 < amount < 1 / UNITS:
                raise PackingError(f"{name} per client: {amount:g} is below 0.0001, Ray's smallest")
        if self.cpus == 0:
            raise PackingError("cpus per client: with 0 any number of actors would start")

    def __str__(self) -> str:
        """For messages."""
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs"


def units(amount: float) -> int:
    """Ten-thousandths, rounded down; 0.29 * 10000 is 2899.99... and means 2900."""
    return int(amount * UNITS + 1e-6)


def shares_of(
    clients: int, *, cpus: float | Sequence[float] = 1.0, gpus: float | Sequence[float] = 0.0
) -> tuple[Share, ...]:
    """The share of each of n clients, from one number for all or one for each.

    Raises
    ------
    PackingError
        If a list is not of length n, or an amount is impossible.
    """
    columns = []
    for name, given in (("cpus", cpus), ("gpus", gpus)):
        column = list(given) if isinstance(given, Sequence) else [given] * clients
        if len(column) != clients:
            raise PackingError(f"{name} per client: {len(column)} numbers for {clients} clients")
        columns.append(column)
    return tuple(Share(cpus=c, gpus=g) for c, g in zip(*columns, strict=True))


def stranded(gpus: float) -> float:
    """The part of a GPU that is left when it holds as many shares as fit.

    0 where the share is 1/k, whole or nothing. 0.3333 is what people write for 1/3: what rounding
    down to ten-thousandths leaves is no rest.
    """
    if not 0 < gpus < 1:
        return 0.0
    exact = Fraction(gpus).limit_denominator(UNITS)
    held = int(1 / exact)
    rest = float(1 - held * exact)
    return rest if rest * UNITS > held else 0.0


def flower_pool(machines: Sequence[Machine], share: Share) -> tuple[int, int]:
    """Actors that Flower's simulation runtime starts, and how many of them Ray can place.

    Flower divides each node's GPUs by the share as if it could lie across two of them: on two
    GPUs at 0.4 it starts 2 / 0.4 = 5 actors, and four have room. One too many waits for ever,
    and so does the client that is given to it.

    Source: ``pool_size_from_resources`` of flwr 1.41.
    """
    started = placed = 0
    for machine in machines:
        most = int(machine.cpus / share.cpus)
        if not share.gpus:
            started, placed = started + most, placed + most
            continue
        started += min(most, int(machine.gpus / share.gpus))
        if share.gpus < 1:
            fitting = machine.gpus * (UNITS // units(share.gpus))
        else:
            fitting = machine.gpus // int(share.gpus)
        placed += min(most, fitting)
    return started, placed
