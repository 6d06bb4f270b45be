"""Pools of actors: every plan fits its machines, serves every client once, and wastes no room."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrategies.engines.packing import Plan, pack
from fedstrategies.engines.shares import (
    Machine,
    PackingError,
    Share,
    flower_pool,
    shares_of,
    stranded,
)

parts = st.sampled_from([0.0, 0.0001, 0.1, 1 / 6, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.7, 1.0])
gpus = st.one_of(parts, st.sampled_from([2.0, 3.0]))
cpus = st.sampled_from([0.25, 0.3, 0.5, 1.0, 2.0, 3.0])
clients = st.lists(st.builds(Share, cpus=cpus, gpus=gpus), min_size=1, max_size=12)
machines = st.lists(
    st.builds(Machine, cpus=st.integers(1, 12).map(float), gpus=st.integers(0, 3)),
    min_size=1,
    max_size=3,
)


def reserved(plan: Plan) -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """CPUs by machine and parts by GPU, in ten-thousandths."""
    cpus: Counter[int] = Counter()
    gpus: Counter[tuple[int, int]] = Counter()
    for pool in plan.pools:
        for actor in pool.actors:
            cpus[actor.machine] += round(pool.reserved.cpus * 10_000)
            for device in actor.gpus:
                gpus[actor.machine, device] += round(min(pool.reserved.gpus, 1) * 10_000)
    return cpus, gpus


@settings(max_examples=150, deadline=None)
@given(clients=clients, machines=machines, actors=st.none() | st.integers(1, 12))
def test_a_plan_fits_and_serves_every_client_once(clients, machines, actors):
    try:
        plan = pack(clients, machines, actors=actors)
    except PackingError:
        return
    served = sorted(p for pool in plan.pools for actor in pool.actors for p in actor.partitions)
    assert served == list(range(len(clients)))
    for pool in plan.pools:
        assert pool.clients == sum(share == pool.share for share in clients)
        assert len(pool.actors) <= pool.clients
        assert pool.reserved.gpus <= max(1.0, pool.share.gpus)
        lengths = {len(actor.partitions) for actor in pool.actors}
        assert max(lengths) - min(lengths) <= 1
        for actor in pool.actors:
            assert all(clients[p] == pool.share for p in actor.partitions)
            assert list(actor.partitions) == sorted(actor.partitions)
            wanted = 1 if 0 < pool.share.gpus < 1 else int(pool.share.gpus)
            assert len(set(actor.gpus)) == len(actor.gpus) == wanted
            assert all(0 <= device < machines[actor.machine].gpus for device in actor.gpus)
    used_cpus, used_gpus = reserved(plan)
    for index, machine in enumerate(machines):
        idle = round(plan.idle_cpus[index] * 10_000)
        assert idle >= 0
        assert used_cpus[index] + idle == machine.cpus * 10_000
        for device in range(machine.gpus):
            idle = round(plan.idle_gpus[index][device] * 10_000)
            assert idle >= 0
            assert used_gpus[index, device] + idle == 10_000
    if actors is not None:
        assert plan.actors == actors


@settings(max_examples=80, deadline=None)
@given(
    share=st.builds(Share, cpus=cpus, gpus=parts),
    machine=st.builds(Machine, cpus=st.integers(3, 12).map(float), gpus=st.integers(1, 3)),
)
def test_one_share_fills_a_machine_to_the_last_client(share, machine):
    """Never less than there is room for, by counting without packing."""
    per_gpu = int(1 / Fraction(share.gpus).limit_denominator(10_000)) if share.gpus else 10**9
    room = min(int(machine.cpus / share.cpus + 1e-9), per_gpu * machine.gpus)
    plan = pack([share] * 40, [machine])
    assert plan.actors == min(40, room)
    assert plan.pools[0].chunk == 1


@settings(max_examples=80, deadline=None)
@given(clients=clients, machines=machines)
def test_no_room_is_left_that_a_pool_could_use(clients, machines):
    try:
        plan = pack(clients, machines)
    except PackingError:
        return
    for pool in plan.pools:
        if len(pool.actors) == pool.clients:
            continue
        need_cpus, need_gpus = pool.reserved.cpus, pool.reserved.gpus
        for idle_cpus, idle_gpus in zip(plan.idle_cpus, plan.idle_gpus, strict=True):
            if need_gpus <= 1:
                fits = not need_gpus or any(part >= need_gpus for part in idle_gpus)
            else:
                fits = sum(part == 1.0 for part in idle_gpus) >= need_gpus
            assert not (fits and idle_cpus >= need_cpus)


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 100))
def test_every_unit_fraction_divides_a_gpu_into_as_many(k):
    plan = pack(shares_of(200, cpus=0.01, gpus=1 / k), [Machine(cpus=4, gpus=1)])
    assert plan.actors == k
    assert plan.warnings == ()
    assert stranded(1 / k) == 0.0
    assert stranded(10_000 // k / 10_000) == 0.0


@pytest.mark.parametrize(("gpus", "rest"), [(0.4, 0.2), (0.3, 0.1), (0.7, 0.3), (0.75, 0.25)])
def test_fractions_that_do_not_divide_one_are_warned_about(gpus, rest):
    assert stranded(gpus) == pytest.approx(rest)
    (warning,) = pack(shares_of(8, gpus=gpus), [Machine(cpus=8, gpus=2)]).warnings
    assert f"{gpus:g}" in warning
    assert f"{rest:.0%}" in warning


def test_the_rest_may_be_filled_by_others():
    plan = pack(shares_of(4, gpus=[0.4, 0.6, 0.4, 0.6]), [Machine(cpus=8, gpus=2)])
    assert [pool.share.gpus for pool in plan.pools] == [0.6, 0.4]
    assert plan.actors == 4
    assert plan.idle_gpus == ((0.0, 0.0),)
    assert plan.warnings == ()


def test_flower_starts_an_actor_that_finds_no_gpu():
    machine = Machine(cpus=16, gpus=2)
    assert flower_pool([machine], Share(gpus=0.4)) == (5, 4)
    assert flower_pool([machine, machine], Share(gpus=0.4)) == (10, 8)
    assert flower_pool([machine], Share(gpus=0.5)) == (4, 4)
    assert flower_pool([machine], Share(gpus=2)) == (1, 1)
    assert flower_pool([Machine(cpus=2, gpus=2)], Share(gpus=0.4)) == (2, 2)
    assert flower_pool([Machine(cpus=2)], Share(gpus=0.4)) == (0, 0)
    assert flower_pool([Machine(cpus=3)], Share(cpus=2)) == (1, 1)


def test_fewer_actors_reserve_more_and_take_clients_several_at_a_time():
    plan = pack(shares_of(20, gpus=0.25), [Machine(cpus=8, gpus=2)], actors=2)
    (pool,) = plan.pools
    assert (pool.chunk, pool.reserved) == (4, Share(cpus=4, gpus=1.0))
    assert [actor.gpus for actor in pool.actors] == [(0,), (1,)]
    # Never across GPUs, and above one CPU whole ones.
    plan = pack(shares_of(20, gpus=0.4, cpus=0.75), [Machine(cpus=8, gpus=2)], actors=1)
    assert (plan.pools[0].chunk, plan.pools[0].reserved) == (2, Share(cpus=2, gpus=0.8))


def test_pools_share_the_machine_by_their_numbers_of_clients():
    given = shares_of(12, gpus=[0.5] * 3 + [0.1] * 9)
    plan = pack(given, [Machine(cpus=8, gpus=1)])
    large, small = plan.pools
    assert (large.clients, len(large.actors)) == (3, 1)
    assert (small.clients, len(small.actors)) == (9, 5)
    assert plan.idle_gpus == ((0.0,),)


def test_machines_of_a_cluster_are_used_without_crossing_them():
    plan = pack(shares_of(8, cpus=2), [Machine(cpus=3), Machine(cpus=5)])
    assert sorted(actor.machine for actor in plan.pools[0].actors) == [0, 1, 1]
    assert plan.idle_cpus == (1.0, 1.0)
    with pytest.raises(PackingError, match="2 GPUs"):
        pack(shares_of(1, gpus=2), [Machine(cpus=2, gpus=1), Machine(cpus=2, gpus=1)])


@pytest.mark.parametrize(
    ("amounts", "word"),
    [
        ({"gpus": 1.5}, "whole"),
        ({"cpus": 2.5}, "whole"),
        ({"gpus": -0.1}, "from 0 up"),
        ({"gpus": float("nan")}, "from 0 up"),
        ({"gpus": float("inf")}, "from 0 up"),
        ({"gpus": 0.00001}, "0.0001"),
        ({"cpus": 0.0}, "any number"),
    ],
)
def test_impossible_shares_are_refused(amounts, word):
    with pytest.raises(PackingError, match=word):
        Share(**amounts)


def test_what_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(PackingError, match="3 numbers for 4 clients"):
        shares_of(4, gpus=[0.5, 0.5, 1])
    with pytest.raises(PackingError, match=r"1 CPUs and 0.5 GPUs .*2 CPUs and 0 GPUs"):
        pack(shares_of(2, gpus=0.5), [Machine(cpus=2)])
    with pytest.raises(PackingError, match=r"2 CPUs and 1.1 GPUs .*; 1 at 1 CPUs, 0.5 GPUs"):
        pack(shares_of(2, gpus=[0.5, 0.6]), [Machine(cpus=2, gpus=1)])
    with pytest.raises(PackingError, match="there is room or use for 2 only"):
        pack(shares_of(9), [Machine(cpus=2)], actors=3)
    with pytest.raises(PackingError, match="no share lies across two machines"):
        pack(shares_of(9, cpus=3), [Machine(cpus=2), Machine(cpus=2)])
    with pytest.raises(PackingError, match=r"\+ 1 CPUs and 0 GPUs$"):
        pack(shares_of(9, cpus=3), [Machine(cpus=1), Machine(cpus=1)])
    with pytest.raises(PackingError, match="2 different shares"):
        pack(shares_of(2, cpus=[1, 2]), [Machine(cpus=8)], actors=1)
    with pytest.raises(PackingError, match="no clients"):
        pack([], [Machine(cpus=8)])
    with pytest.raises(PackingError, match="no machines"):
        pack(shares_of(1), [])
