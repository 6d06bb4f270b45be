"""Shares of CPUs and GPUs: which actors there will be, and which of them would wait for ever."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fedstrategies.engines.packing import Plan, pack
from fedstrategies.engines.shares import UNITS, Machine, PackingError, Share, flower_pool
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem
from fedstrategies.experiment.resources import client_shares

__all__ = ["Cluster", "check_placement", "plan_of", "ray_cluster"]

_IDLE = 0.01


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What Ray sees.

    Attributes
    ----------
    machines : tuple of Machine
        What there is, in use or not.
    free_cpus, free_gpus : float
        Of all machines together, what nobody has reserved.
    """

    machines: tuple[Machine, ...]
    free_cpus: float
    free_gpus: float

    @classmethod
    def unused(cls, machines: Sequence[Machine]) -> Cluster:
        """One that nobody works on."""
        return cls(
            machines=tuple(machines),
            free_cpus=sum(machine.cpus for machine in machines),
            free_gpus=sum(machine.gpus for machine in machines),
        )


def ray_cluster(config: ExperimentConfig) -> Cluster:
    """The cluster that the run would use, which is started for it if need be.

    Raises
    ------
    Exception
        Whatever Ray raises where it cannot be reached or started.
    """
    import ray

    from fedstrategies.engines.ray_cluster import connect, machines

    # Flower leaves the counting to Ray, which does not look at the process's affinity.
    if config.backend == "flower" and not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        started = True
    else:
        started = connect(config.ray_address)
    try:
        found = Cluster.unused(machines())
        available: Callable[[], dict[str, float]] = ray.available_resources
        free = available()
        if not free:  # a cluster so young that Ray has not counted yet
            return found
        # Kinds that are used up are left out.
        return replace(found, free_cpus=free.get("CPU", 0.0), free_gpus=free.get("GPU", 0.0))
    finally:
        if started:
            ray.shutdown()


def plan_of(config: ExperimentConfig, machines: Sequence[Machine]) -> Plan | PackingError:
    """Pools of actors for the configuration's clients, or why there are none."""
    try:
        return pack(client_shares(config), machines, actors=config.actors)
    except PackingError as error:
        return error


def check_placement(
    config: ExperimentConfig,
    cluster: Cluster,
    plan: Plan | PackingError,
    *,
    torch_gpus: int,
) -> Iterator[Finding]:
    """Whether everyone finds a place, and what nobody uses.

    Parameters
    ----------
    config : ExperimentConfig
        What is run.
    cluster : Cluster
        What Ray sees.
    plan : Plan or PackingError
        See `plan_of`.
    torch_gpus : int
        GPUs that torch sees on this machine.
    """
    machines = cluster.machines
    yield ok("Ray's machines", " + ".join(map(str, machines)) or "none")
    gpus = sum(machine.gpus for machine in machines)
    if len(machines) == 1 and gpus != torch_gpus:
        yield note(
            "gpus",
            f"Ray sees {gpus} and torch {torch_gpus}",
            "unset CUDA_VISIBLE_DEVICES or give both the same; start a cluster with --num-gpus",
        )
    if isinstance(plan, PackingError):
        yield problem("actors", str(plan), "smaller --cpus-per-client or --gpus-per-client")
        return
    if config.backend == "flower":
        yield from _check_flower(machines, plan.pools[0].share)
    else:
        yield ok("actors", f"{plan.actors} in {len(plan.pools)} pools")
    yield from _check_free(config, cluster, plan)
    for line in plan.warnings:
        text, _, advice = line.rpartition("; ")
        yield note("shares", text, advice.replace("fills", "of a GPU fills"))
    idle = sum(part for free in plan.idle_gpus for part in free)
    if idle > _IDLE and any(pool.share.gpus for pool in plan.pools) and not plan.warnings:
        yield note(
            "shares",
            f"{idle:.3g} of {gpus} GPUs stay free",
            "larger shares, more clients or fewer CPUs per client",
        )


def _check_free(config: ExperimentConfig, cluster: Cluster, plan: Plan) -> Iterator[Finding]:
    """What the run reserves against what others have left; on which GPU, Ray does not say."""
    shares = [(len(pool.actors), pool.reserved) for pool in plan.pools]
    if config.backend == "flower":
        share = plan.pools[0].share
        shares = [(flower_pool(cluster.machines, share)[1], share)]
    cpus = sum(actors * share.cpus for actors, share in shares)
    gpus = sum(actors * share.gpus for actors, share in shares)
    if cpus <= cluster.free_cpus + _IDLE and gpus <= cluster.free_gpus + _IDLE:
        return
    late = (
        "clients given to actors that find no room wait"
        if config.backend == "flower"
        else "a run whose actors find no room stops after two minutes"
    )
    yield note(
        "actors",
        f"they take {cpus:g} CPUs and {gpus:g} GPUs, of which {cluster.free_cpus:g} and "
        f"{cluster.free_gpus:g} are free now: {late}",
        "wait until others have finished (`ray status`)"
        + (", or ask for fewer --actors" if config.backend == "ray" else ""),
    )


def _check_flower(machines: Sequence[Machine], share: Share) -> Iterator[Finding]:
    started, placed = flower_pool(machines, share)
    if started > placed:
        # What fits on one GPU, at the share that fills it.
        filling = UNITS // int(1 / share.gpus) / UNITS
        yield problem(
            "actors",
            f"Flower would start {started} at {share.gpus:g} of a GPU, of which Ray can place "
            f"{placed}: clients given to the others wait until the run's timeout",
            f"--gpus-per-client {filling:g}",
        )
    elif not started:
        yield problem(
            "actors",
            f"Flower would start none: no machine has {share}",
            "smaller --cpus-per-client or --gpus-per-client",
        )
    else:
        yield ok("actors", f"{started}, all of which Ray can place")
