"""Ray's actors without processes: everything is pickled on its way, and deaths come on schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ray.cloudpickle import dumps, loads
from ray.exceptions import ActorDiedError, RayTaskError

from fedstrategies.engines import ray_cluster, ray_session, ray_shard
from fedstrategies.engines.shares import Machine

Deadly = Callable[["FakeActor", str], bool]


class Stored:
    """A reference to a pickled value, or to what went wrong."""

    def __init__(self, value: object = None, error: Exception | None = None) -> None:
        self.error = error
        self.data = dumps(value, protocol=5)

    def read(self) -> Any:
        if self.error is not None:
            raise self.error
        return loads(self.data)


class FakeActor:
    """An actor that works when it is asked, in the driver's thread."""

    def __init__(self, ray: FakeRay, made: Any, partitions: tuple[int, ...]) -> None:
        self.ray, self.made, self.partitions = ray, made, partitions
        self.dead = False

    def __getattr__(self, method: str) -> Any:
        return Method(self, method)


class Method:
    def __init__(self, actor: FakeActor, name: str) -> None:
        self.actor, self.name = actor, name

    def remote(self, *arguments: object) -> Stored:
        actor, ray = self.actor, self.actor.ray
        ray.calls.append((actor.partitions, self.name))
        actor.dead = actor.dead or ray.deadly(actor, self.name)
        if actor.dead:
            return Stored(error=ActorDiedError())
        sent = [a.read() if isinstance(a, Stored) else loads(dumps(a, 5)) for a in arguments]
        try:
            answer = Stored(getattr(actor.made, self.name)(*sent))
        except Exception as error:
            return Stored(error=RayTaskError(self.name, "its traceback", error))
        ray.answered[self.name] = max(ray.answered.get(self.name, 0), len(answer.data))
        return answer


class FakeRay:
    """What the engines call of Ray.

    Attributes
    ----------
    deadly : callable
        Whether a call kills its actor.
    calls : list of tuple
        Who was asked what.
    answered : dict of str to int
        Bytes of the largest answer, by method.
    reserved : list of dict
        What each actor asked for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
        self.deadly: Deadly = lambda actor, method: False
        self.calls: list[tuple[tuple[int, ...], str]] = []
        self.answered: dict[str, int] = {}
        self.reserved: list[dict[str, Any]] = []
        for module in (ray_cluster, ray_session, ray_shard):
            monkeypatch.setattr(module, "ray", self)
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
                return FakeActor(fake, made, tuple(arguments[1]))

        return Factory()

    def put(self, value: object) -> Stored:
        return Stored(value)

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        if isinstance(reference, list):
            return [one.read() for one in reference]
        return reference.read()

    def wait(self, references: list[Stored], timeout: float | None = None) -> tuple[Any, Any]:
        return references, []

    def kill(self, actor: FakeActor) -> None:
        actor.dead = True

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
