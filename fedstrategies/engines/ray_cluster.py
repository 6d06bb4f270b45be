"""The connection to Ray, and the actors of a grid on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from fedstrategies.engines.execution import available_cores
from fedstrategies.engines.packing import Plan, Pool
from fedstrategies.engines.ray_actor import ShardWorker
from fedstrategies.engines.ray_failures import PLACING_SECONDS, not_placed, reason_of
from fedstrategies.engines.ray_shard import Shard
from fedstrategies.engines.shares import Machine

__all__ = ["INLINED", "connect", "machines", "start"]

INLINED = 4 * 2**20
"""Bytes up to which arguments and answers travel in the call itself on a Ray that is started here.

By default 100 kB do, and all else goes by way of the object store: 5 ms and more each time, as long
as a whole round of a small model may take.
"""


def connect(address: str | None) -> bool:
    """Make sure of a connection to Ray; whether it was made here.

    Parameters
    ----------
    address : str or None
        A running cluster (``"auto"``: that of this machine); None: the one this process is
        connected to already, or else a new one of this machine's cores.

    Raises
    ------
    ValueError
        If the process is connected to another cluster already.
    """
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise ValueError(
                f"address = {address!r}, but this process is connected to Ray at {here} already; "
                "call ray.shutdown() first, or leave the address out"
            )
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        settings |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "_system_config": {"max_direct_call_object_size": INLINED},
        }
    ray.init(address=address or "local", **settings)
    return True


def machines() -> list[Machine]:
    """What the nodes of the cluster have, in use or not."""
    known: Callable[[], list[dict[str, Any]]] = ray.nodes
    nodes = [node for node in known() if node["Alive"]]
    amounts = [node["Resources"] for node in sorted(nodes, key=lambda node: str(node["NodeID"]))]
    return [Machine(cpus=have.get("CPU", 0.0), gpus=int(have.get("GPU", 0))) for have in amounts]


def start(
    app: bytes,
    plan: Plan,
    *,
    clients: int,
    run_config: Mapping[str, bool | float | int | str],
) -> list[Shard]:
    """The actors of a plan, ready to work.

    Raises
    ------
    ValueError
        If Ray does not place them all.
    RuntimeError
        If one does not start: the app cannot be loaded there, say.
    """
    stored, shards = ray.put(app), list[Shard]()
    try:
        for pool in plan.pools:
            build = _builder(pool, stored, clients, dict(run_config))
            made = [Shard(build, actor.partitions) for actor in pool.actors]
            shards += made
            # Large shares are placed before small ones ask, as the plan has it.
            ray.get([shard.submit("ready", ()) for shard in made], timeout=PLACING_SECONDS)
    except BaseException as error:
        for shard in shards:
            shard.close()
        if isinstance(error, GetTimeoutError):
            raise ValueError(not_placed(f"{plan.actors} actors")) from None
        if isinstance(error, RayActorError):
            raise RuntimeError(f"a Ray actor could not start: {reason_of(error)}") from error
        raise
    return shards


def _builder(
    pool: Pool, app: Any, clients: int, run_config: dict[str, bool | float | int | str]
) -> Callable[[tuple[int, ...]], Any]:
    reserved = pool.reserved
    options = {"num_cpus": _whole(reserved.cpus), "num_gpus": _whole(reserved.gpus)}
    work = {
        "workers": max(1, int(reserved.cpus)),
        # Shares of a GPU are shares of its memory.
        "chunk": pool.chunk if reserved.gpus else None,
    }
    actor_class: Any = ray.remote(ShardWorker)

    def build(partitions: tuple[int, ...]) -> Any:
        actor = actor_class.options(max_restarts=0, **options)
        return actor.remote(app, clients, partitions, run_config, **work)

    return build


def _whole(amount: float) -> int | float:
    """Ray insists on integers above 1."""
    return int(amount) if float(amount).is_integer() else amount
