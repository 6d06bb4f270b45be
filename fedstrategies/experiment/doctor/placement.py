"""Shares of CPUs and GPUs: which actors there will be, and which of them would wait for ever."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence

from fedstrategies.engines.packing import Plan, pack
from fedstrategies.engines.shares import UNITS, Machine, PackingError, Share, flower_pool
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem
from fedstrategies.experiment.resources import client_shares

__all__ = ["check_placement", "plan_of", "ray_machines"]

_IDLE = 0.01


def ray_machines(config: ExperimentConfig) -> list[Machine]:
    """What Ray sees: of the cluster that the run would use, which is started for it if need be.

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
        return machines()
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
    machines: Sequence[Machine],
    plan: Plan | PackingError,
    *,
    torch_gpus: int,
) -> Iterator[Finding]:
    """Whether everyone finds a place, and what nobody uses.

    Parameters
    ----------
    config : ExperimentConfig
        What is run.
    machines : sequence of Machine
        What Ray sees.
    plan : Plan or PackingError
        See `plan_of`.
    torch_gpus : int
        GPUs that torch sees on this machine.
    """
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
