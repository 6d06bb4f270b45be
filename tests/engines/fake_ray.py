"""Ray's actors without processes: everything is pickled on its way, and faults come on schedule.

Time is the fake's own: it passes while somebody waits.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from ray.cloudpickle import dumps, loads
from ray.exceptions import ActorDiedError, GetTimeoutError, ObjectLostError, RayTaskError

from fedstrategies.engines import ray_answer, ray_cluster, ray_grid, ray_session, ray_shard
from fedstrategies.engines.shares import Machine

Deadly = Callable[["FakeActor", str], bool]
Fault = Callable[["FakeActor", str], Exception | None]


class Stored:
    """A reference to a pickled value, or to what went wrong, which is there at a time."""

    def __init__(
        self,
        value: object = None,
        error: Exception | None = None,
        *,
        method: str = "",
        by: FakeActor | None = None,
        at: float = 0.0,
    ) -> None:
        self.method, self.by, self._at = method, by, at
        self.data = dumps(value, protocol=5)
        self._error = dumps(error, protocol=5)

    @property
    def at(self) -> float:
        return self._at if self.by is None else min(self._at, self.by.ended)

    def read(self) -> Any:
        if self.at < self._at:
            raise ActorDiedError()
        # A new one each time: one that is kept keeps its frames, and the actors in those.
        error = loads(self._error)
        if error is not None:
            raise error
        return loads(self.data)


class FakeActor:
    """An actor that works when it is asked, in the driver's thread."""

    def __init__(self, ray: FakeRay, made: Any, partitions: tuple[int, ...]) -> None:
        self.ray, self.made, self.partitions = ray, made, partitions
        self.dead = False
        self.free, self.ended = (inf if ray.full else ray.now), inf

    def __getattr__(self, method: str) -> Any:
        return Method(self, method)


class Method:
    def __init__(self, actor: FakeActor, name: str) -> None:
        self.actor, self.name = actor, name

    def remote(self, *arguments: object) -> Stored:
        actor, ray = self.actor, self.actor.ray
        ray.calls.append((actor.partitions, self.name))
        ray.log.append(("ask", self.name))
        actor.dead = actor.dead or ray.deadly(actor, self.name)
        actor.free = max(actor.free, ray.now) + ray.seconds(actor, self.name)
        if actor.dead:
            return self.stored(error=ActorDiedError())
        fault = ray.fault(actor, self.name)
        if fault is not None and not isinstance(fault, ObjectLostError):
            return self.stored(error=fault)
        sent = [a.read() if isinstance(a, Stored) else loads(dumps(a, 5)) for a in arguments]
        try:
            answer = self.stored(getattr(actor.made, self.name)(*sent))
        except Exception as error:
            return self.stored(error=RayTaskError(self.name, "its traceback", error))
        ray.answered[self.name] = max(ray.answered.get(self.name, 0), len(answer.data))
        return answer if fault is None else self.stored(error=fault)

    def stored(self, value: object = None, error: Exception | None = None) -> Stored:
        return Stored(value, error, method=self.name, by=self.actor, at=self.actor.free)


class FakeRay:
    """What the engines call of Ray.

    Attributes
    ----------
    deadly : callable
        Whether a call kills its actor.
    fault : callable
        What comes in place of an answer, if anything, from an actor that lives on. Where it is an
        `ObjectLostError` the work was done, otherwise not.
    seconds : callable
        How long a call takes.
    full : bool
        Whether actors that are made from now on are never placed.
    calls : list of tuple
        Who was asked what.
    log : list of tuple
        ("ask", method) and ("read", method), in order.
    answered : dict of str to int
        Bytes of the largest answer, by method.
    reserved : list of dict
        What each actor asked for.
    made : list of FakeActor
        All actors.
    now : float
        The time in seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
        self.deadly: Deadly = lambda actor, method: False
        self.fault: Fault = lambda actor, method: None
        self.seconds: Callable[[FakeActor, str], float] = lambda actor, method: 0.0
        self.full = False
        self.calls: list[tuple[tuple[int, ...], str]] = []
        self.log: list[tuple[str, str]] = []
        self.answered: dict[str, int] = {}
        self.reserved: list[dict[str, Any]] = []
        self.made: list[FakeActor] = []
        self.now = 0.0
        for module in (ray_answer, ray_cluster, ray_session, ray_shard):
            monkeypatch.setattr(module, "ray", self)
        for module in (ray_grid, ray_shard):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(ray_cluster, "connect", lambda address: False)
        monkeypatch.setattr(ray_cluster, "machines", lambda: [machine])

    def remote(self, kind: type) -> Any:
        fake = self

        class Factory:
            def options(self, **options: Any) -> Factory:
                fake.reserved.append(options)
                return self

            def remote(self, app: Stored, *arguments: Any, **work: Any) -> FakeActor:
                made = kind(app.read(), *loads(dumps(arguments, 5)), **work)
                fake.made.append(FakeActor(fake, made, tuple(arguments[1])))
                return fake.made[-1]

        return Factory()

    def put(self, value: object) -> Stored:
        return Stored(value)

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        if isinstance(reference, list):
            return [self.get(one, timeout) for one in reference]
        if not self.wait([reference], timeout=timeout)[0]:
            raise GetTimeoutError
        self.log.append(("read", reference.method))
        return reference.read()

    def wait(self, references: list[Stored], timeout: float | None = None) -> tuple[Any, Any]:
        soonest = min(reference.at for reference in references)
        if timeout is None:
            assert soonest < inf, "somebody waits for ever"
            timeout = inf
        self.now = max(self.now, min(soonest, self.now + timeout))
        ready = [reference for reference in references if reference.at <= self.now]
        return ready, [reference for reference in references if reference not in ready]

    def kill(self, actor: FakeActor) -> None:
        actor.dead = True
        actor.ended = min(actor.ended, self.now)

    def asked(self, method: str) -> list[tuple[int, ...]]:
        """Partitions of the actors that were asked for something, in order."""
        return [who for who, name in self.calls if name == method]


def nth(method: str, *times: int, of: int | None = None) -> Deadly:
    """Deadly at the n-th call of a method, from 1 (to the actor of partition ``of``)."""
    count = [0]

    def deadly(actor: FakeActor, name: str) -> bool:
        if name != method or (of is not None and of not in actor.partitions):
            return False
        count[0] += 1
        return count[0] in times

    return deadly


def instead(error: Exception, when: Deadly) -> Fault:
    """A fault at the calls that ``when`` names."""
    return lambda actor, method: error if when(actor, method) else None
