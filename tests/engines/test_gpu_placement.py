"""Ray places actors as the plan says: on logical GPUs, which need no device."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fedstrategies.engines.packing import Plan, pack
from fedstrategies.engines.shares import Machine, flower_pool, shares_of

pytestmark = pytest.mark.runtime
ray = pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

MACHINE = Machine(cpus=8, gpus=2)


@pytest.fixture(scope="module")
def gpus() -> Iterator[Any]:
    """Starts actors with shares of the two logical GPUs; where each one came to lie, or None."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        num_cpus=int(MACHINE.cpus),
        num_gpus=MACHINE.gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=40,
    )

    @ray.remote
    class Actor:
        def where(self) -> tuple[int, ...]:
            return tuple(sorted(int(device) for device in ray.get_gpu_ids()))

    def started(pools: list[list[tuple[float, float]]], waiting: int = 0) -> list[Any]:
        """One pool after the other, as plans ask for; ``waiting`` of the last find no room."""
        actors, asked = [], []
        for pool in pools:
            made = [Actor.options(num_cpus=c, num_gpus=g).remote() for c, g in pool]
            actors += made
            asked += [actor.where.remote() for actor in made]
            last = waiting if pool is pools[-1] else 0
            ray.wait(asked, num_returns=len(asked) - last, timeout=60)
        # Whoever has room is there by now; the others get a moment more to prove it.
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=2 if waiting else 0)
        found = [ray.get(ref) if ref in done else None for ref in asked]
        for actor in actors:
            ray.kill(actor)
        until = time.monotonic() + 30
        while ray.available_resources().get("GPU", 0) < MACHINE.gpus and time.monotonic() < until:
            time.sleep(0.05)
        return found

    yield started
    ray.shutdown()


def amounts(plan: Plan) -> list[list[tuple[float, float]]]:
    return [[(pool.reserved.cpus, pool.reserved.gpus)] * len(pool.actors) for pool in plan.pools]


def test_halves_land_two_on_each_gpu(gpus: Any) -> None:
    plan = pack(shares_of(10, gpus=0.5), [MACHINE])
    found = gpus(amounts(plan))
    assert Counter(found) == {(0,): 2, (1,): 2}
    assert Counter(found) == Counter(actor.gpus for actor in plan.pools[0].actors)


def test_pools_of_several_shares_are_placed_as_planned(gpus: Any) -> None:
    plan = pack(shares_of(5, gpus=[0.4, 0.6, 0.5, 0.25, 0.25]), [MACHINE])
    assert plan.actors == 5
    assert plan.idle_gpus == ((0.0, 0.0),)
    planned = [actor.gpus for pool in plan.pools for actor in pool.actors]
    # Ray may number equally free GPUs as it likes: who shares one with whom is what counts.
    assert groups(gpus(amounts(plan))) == groups(planned)


def groups(seats: list[Any]) -> set[tuple[int, ...]]:
    """Which actors lie together."""
    assert None not in seats
    return {tuple(i for i, seat in enumerate(seats) if seat == one) for one in seats}


def test_one_more_than_planned_waits_as_flowers_fifth_does(gpus: Any) -> None:
    plan = pack(shares_of(10, gpus=0.4, cpus=0.5), [MACHINE])
    assert (plan.actors, flower_pool([MACHINE], plan.pools[0].share)) == (4, (5, 4))
    (pool,) = amounts(plan)
    found = gpus([[*pool, pool[0]]], waiting=1)
    assert Counter(found) == {(0,): 2, (1,): 2, None: 1}
