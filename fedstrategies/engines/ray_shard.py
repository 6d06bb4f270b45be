"""A Ray actor as the driver sees it: started, asked, and built anew where it dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

__all__ = ["Answer", "Shard"]

logger = logging.getLogger("flwr")

_DEATHS = (RayActorError, OutOfMemoryError)


class Shard:
    """One actor and the partitions it owns.

    Parameters
    ----------
    build : callable
        Starts an actor for these partitions.
    partitions : sequence of int
        Ascending.

    Attributes
    ----------
    partitions : Tensor
        int64.
    generation : int
        How many actors were started.
    died : bool
        Whether an actor died since this was last set to False: only one may, between two rounds.
    on_rebuilt : callable or None
        Gives a new actor what the old one knew, as far as it is known elsewhere.
    """

    def __init__(self, build: Callable[[tuple[int, ...]], Any], partitions: Sequence[int]) -> None:
        self.partitions = torch.tensor(list(partitions))
        self.generation = 0
        self.died = False
        self.on_rebuilt: Callable[[Shard], None] | None = None
        self._build = build
        self._actor: Any = None

    def __str__(self) -> str:
        first, last = int(self.partitions[0]), int(self.partitions[-1])
        return f"the Ray actor of clients {first} to {last}"

    @property
    def lost(self) -> bool:
        """Whether there is no actor."""
        return self._actor is None

    def ask(self, method: str, *arguments: object, about: Sequence[int] = ()) -> Answer:
        """Ask the actor, and start one first if there is none.

        Parameters
        ----------
        method : str
            Of `ShardWorker`.
        *arguments : object
            Its arguments.
        about : sequence of int
            Partitions whose work it is, for the message if the actor dies over it.
        """
        return Answer(self, method, arguments, about)

    def submit(self, method: str, arguments: tuple[object, ...]) -> Any:
        """A reference to what the actor will answer."""
        if self._actor is None:
            self.rebuild()
        return getattr(self._actor, method).remote(*arguments)

    def rebuild(self) -> None:
        """Start another actor in place of this one, if there is one."""
        replaces = self.generation > 0
        self.stop()
        self._actor = self._build(tuple(self.partitions.tolist()))
        self.generation += 1
        if replaces and self.on_rebuilt is not None:
            self.on_rebuilt(self)

    def stop(self) -> None:
        """End the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


class Answer:
    """What an actor will have said; made by `Shard.ask`."""

    def __init__(
        self, shard: Shard, method: str, arguments: tuple[object, ...], about: Sequence[int]
    ) -> None:
        self.shard = shard
        self._method, self._arguments, self._about = method, arguments, about
        self._reference = shard.submit(method, arguments)
        self._generation = shard.generation

    def wait(self, timeout: float | None) -> bool:
        """Wait at most so many seconds (None: any); whether it is there, or the actor is not."""
        ready, _ = ray.wait([self._reference], timeout=timeout)
        return bool(ready)

    def check(self) -> None:
        """Wait for it, and raise what the work raised; an actor that died is let be."""
        with suppress(*_DEATHS):
            self._result()

    def get(self) -> Any:
        """Wait for it; if the actor died, its successor is asked.

        Raises
        ------
        RuntimeError
            If that one dies as well, or an earlier one did in the same round: what kills two
            actors is not retried.
        Exception
            What the work itself raised, as it was.
        """
        try:
            return self._result()
        except _DEATHS as error:
            if self._generation == self.shard.generation:
                if self.shard.died:
                    self._give_up(error)
                self.shard.died = True
                logger.warning("%s died and is built anew: %s", self.shard, _reason(error))
                self.shard.rebuild()
        self._reference = self.shard.submit(self._method, self._arguments)
        try:
            return self._result()
        except _DEATHS as error:
            self._give_up(error)

    def _result(self) -> Any:
        try:
            return ray.get(self._reference)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def _give_up(self, error: Exception) -> None:
        self.shard.stop()
        whose = f" for partitions {', '.join(map(str, self._about))}" if self._about else ""
        raise RuntimeError(
            f"{self.shard} died twice in one round, the second time over "
            f"'{self._method}'{whose}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
