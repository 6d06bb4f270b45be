"""Clients with shares of CPUs and GPUs -> pools of actors on machines.

Clients of equal shares form a *pool*; its actors reserve room for ``chunk`` of them at a time,
``chunk`` times the share. Ray gives an actor a part of one GPU or whole GPUs, never parts of two,
and reserves it for as long as the actor lives. So all reservations must fit side by side, and
what counts is how many fit on each GPU. All this is arithmetic on numbers: nothing is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

from fedstrategies.engines.placing import Demand, Seat, place
from fedstrategies.engines.shares import UNITS, Machine, PackingError, Share, stranded, units
from fedstrategies.engines.shares import shares_of as shares_of

__all__ = ["Machine", "PackingError", "Placement", "Plan", "Pool", "Share", "pack", "shares_of"]

_Pools: TypeAlias = Sequence[tuple[Share, Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One actor.

    Attributes
    ----------
    machine : int
        Position among the machines.
    gpus : tuple of int
        GPUs of that machine it may use; one, where it reserves a part.
    partitions : tuple of int
        The clients it owns, ascending.
    """

    machine: int
    gpus: tuple[int, ...]
    partitions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Clients of one share and their actors.

    Attributes
    ----------
    share : Share
        Of one client.
    chunk : int
        Clients that an actor may have at work at a time: their shares sum to what it reserves.
    actors : tuple of Placement
        In the order in which they are to be started.
    """

    share: Share
    chunk: int
    actors: tuple[Placement, ...]

    @property
    def reserved(self) -> Share:
        """What each actor asks Ray for."""
        cpus, gpus = _demand(self.share, self.chunk)
        return Share(cpus=cpus / UNITS, gpus=gpus / UNITS)

    @property
    def clients(self) -> int:
        """How many clients have this share."""
        return sum(len(actor.partitions) for actor in self.actors)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where everyone is.

    Actors are to be started in this order, pool by pool: the larger shares come first. In
    another order small shares may leave no GPU free enough for the large ones.

    Attributes
    ----------
    machines : tuple of Machine
        What there is.
    pools : tuple of Pool
        The largest share of a GPU first.
    idle_cpus : tuple of float
        CPUs of each machine that nobody reserves.
    idle_gpus : tuple of tuple of float
        Of each machine, the part of each GPU that nobody reserves.
    """

    machines: tuple[Machine, ...]
    pools: tuple[Pool, ...]
    idle_cpus: tuple[float, ...]
    idle_gpus: tuple[tuple[float, ...], ...]

    @property
    def actors(self) -> int:
        """How many there are in all pools."""
        return sum(len(pool.actors) for pool in self.pools)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each share of which no number fills a GPU, unless others fill the rest."""
        if not any(part >= 0.01 for gpus in self.idle_gpus for part in gpus):
            return ()
        return tuple(
            f"gpus per client {gpus:g}: a GPU holds {int(1 / gpus)} and {rest:.0%} of it stays "
            f"free; {UNITS // int(1 / gpus) / UNITS:g} fills it"
            for gpus in sorted({pool.share.gpus for pool in self.pools})
            if (rest := stranded(gpus))
        )


def pack(
    clients: Sequence[Share], machines: Sequence[Machine], *, actors: int | None = None
) -> Plan:
    """Pools of actors for n clients on some machines.

    Each pool gets an actor; then, while there is room, the pool with most clients an actor gets
    another. With fewer ``actors`` than there is room for, those reserve more than one share, as
    many as fit, and may have as many clients at work at a time.

    Parameters
    ----------
    clients : sequence of Share
        Of partitions 0 to n - 1.
    machines : sequence of Machine
        What there is.
    actors : int or None
        How many in all; None: as many as fit, and no more than clients.

    Raises
    ------
    PackingError
        If a pool finds no room, or ``actors`` is below the number of pools or more than fit.
    """
    members: dict[Share, list[int]] = {}
    for partition, share in enumerate(clients):
        members.setdefault(share, []).append(partition)
    if not members:
        raise PackingError("there are no clients to place")
    # Large before small is what lets both fit.
    pools = [(share, members[share]) for share in sorted(members, reverse=True)]
    if actors is not None and actors < len(pools):
        raise PackingError(
            f"actors = {actors}: clients have {len(pools)} different shares, and each needs an "
            "actor of its own; give more actors or fewer shares"
        )
    counts = _counts(pools, machines, actors)
    chunks = [1] * len(pools) if actors is None else _chunks(pools, counts, machines)
    placed = place(_demands(pools, counts, chunks), machines)
    assert placed is not None
    seats = iter(placed.seats)
    return Plan(
        machines=tuple(machines),
        pools=tuple(
            Pool(share=share, chunk=chunk, actors=_divided(owned, [next(seats) for _ in range(n)]))
            for (share, owned), n, chunk in zip(pools, counts, chunks, strict=True)
        ),
        idle_cpus=tuple(free / UNITS for free in placed.cpus),
        idle_gpus=tuple(tuple(free / UNITS for free in gpus) for gpus in placed.gpus),
    )


def _demand(share: Share, chunk: int) -> Demand:
    """Of an actor for ``chunk`` clients; more than one CPU must be whole CPUs."""
    cpus = chunk * units(share.cpus)
    return cpus if cpus <= UNITS else ceil(cpus / UNITS) * UNITS, chunk * units(share.gpus)


def _demands(pools: _Pools, counts: Sequence[int], chunks: Sequence[int]) -> list[Demand]:
    return [
        _demand(share, chunk)
        for (share, _), count, chunk in zip(pools, counts, chunks, strict=True)
        for _ in range(count)
    ]


def _counts(pools: _Pools, machines: Sequence[Machine], actors: int | None) -> list[int]:
    """Actors of each pool, with room for one client each."""
    ones = [1] * len(pools)
    counts = list(ones)
    if place(_demands(pools, counts, ones), machines) is None:
        raise PackingError(_no_room(pools, machines))
    clients = sum(len(owned) for _, owned in pools)
    limit = clients if actors is None else actors
    growing = set(range(len(pools)))
    while growing and sum(counts) < limit:
        busiest = max(growing, key=lambda p: (len(pools[p][1]) / counts[p], -p))
        counts[busiest] += 1
        useful = counts[busiest] <= len(pools[busiest][1])
        if not useful or place(_demands(pools, counts, ones), machines) is None:
            counts[busiest] -= 1
            growing.discard(busiest)
    if actors is not None and sum(counts) < actors:
        raise PackingError(
            f"actors = {actors}: there is room or use for {sum(counts)} only (clients: "
            f"{_listing(pools)}; machines: {_inventory(machines)})"
        )
    return counts


def _chunks(pools: _Pools, counts: Sequence[int], machines: Sequence[Machine]) -> list[int]:
    """Clients at a time of each pool's actors: pool by pool, as many as fit beside the others."""
    chunks = [1] * len(pools)
    for p, (share, owned) in enumerate(pools):
        most = ceil(len(owned) / counts[p])
        if share.gpus:
            # Never across GPUs.
            most = min(most, max(1, UNITS // units(share.gpus)))
        for chunk in range(most, 1, -1):
            trial = [*chunks[:p], chunk, *chunks[p + 1 :]]
            if place(_demands(pools, counts, trial), machines) is not None:
                chunks = trial
                break
    return chunks


def _divided(partitions: Sequence[int], seats: Sequence[Seat]) -> tuple[Placement, ...]:
    """Ranges of equal length, or one client longer, in partition order."""
    bounds = [len(partitions) * i // len(seats) for i in range(len(seats) + 1)]
    return tuple(
        Placement(
            machine=machine, gpus=gpus, partitions=tuple(partitions[bounds[i] : bounds[i + 1]])
        )
        for i, (machine, gpus) in enumerate(seats)
    )


def _no_room(pools: _Pools, machines: Sequence[Machine]) -> str:
    cpus, gpus = (sum(getattr(share, name) for share, _ in pools) for name in ("cpus", "gpus"))
    who = "a client" if len(pools) == 1 else f"a client of each of the {len(pools)} shares"
    what, need = ("GPUs or machines", gpus) if gpus else ("machines", cpus)
    enough = need <= sum(machine.gpus if gpus else machine.cpus for machine in machines)
    across = f"; no share lies across two {what}" if enough else ""
    return (
        f"{who} needs {cpus:g} CPUs and {gpus:g} GPUs (clients: {_listing(pools)}), and there are "
        f"{_inventory(machines)}{across}"
    )


def _listing(pools: _Pools) -> str:
    shown = [f"{len(owned)} at {share}" for share, owned in pools[:4]]
    return "; ".join([*shown, f"{len(pools) - 4} more"] if len(pools) > 4 else shown)


def _inventory(machines: Sequence[Machine]) -> str:
    return " + ".join(map(str, machines)) or "no machines"
