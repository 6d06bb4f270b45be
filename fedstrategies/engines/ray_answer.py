"""What an actor was asked, until its answer is there: asked again of its successor if it dies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError

from fedstrategies.engines.ray_failures import DEATHS, reason_of

if TYPE_CHECKING:
    from fedstrategies.engines.ray_shard import Shard

__all__ = ["Answer", "wait_for_any"]

logger = logging.getLogger("flwr")


class Answer:
    """What an actor will have said; made by `Shard.ask`.

    If the actor is replaced before this is looked at, its successor is asked: what the first one
    did is gone with it, and it may have worked on what nobody knows.
    """

    def __init__(
        self, shard: Shard, method: str, arguments: tuple[object, ...], about: Sequence[int]
    ) -> None:
        self.shard = shard
        self._method, self._arguments, self._about = method, arguments, about
        self._died = False
        self._there, self._value = False, None
        self._submit()

    def _submit(self) -> None:
        self._reference = self.shard.submit(self._method, self._arguments)
        self._generation = self.shard.generation

    @property
    def _stale(self) -> bool:
        return self.shard.lost or self._generation != self.shard.generation

    def get(self) -> Any:
        """Wait for it and hand it out, once; if the actor died, its successor is asked.

        Raises
        ------
        RuntimeError
            If that one dies as well, or an earlier one did in the same round: what kills two
            actors is not retried. If Ray does not place it.
        Exception
            What the work itself raised, as it was.
        """
        while not self._take(None):
            pass
        value, self._value = self._value, None
        return value

    def poll(self) -> bool:
        """Whether it is there, without waiting; if the actor died, its successor is asked.

        Raises
        ------
        RuntimeError, Exception
            As `get`.
        """
        return self._take(0.0)

    def confirm(self) -> None:
        """Wait until it is known to be done; where it is not, the actor is replaced.

        The work is not repeated: what a new actor must know `Shard.on_rebuilt` tells it.

        Raises
        ------
        RuntimeError, Exception
            As `get`.
        """
        if self._stale:
            return
        try:
            self._result()
        except DEATHS as error:
            self._replace(error)

    def _take(self, timeout: float | None) -> bool:
        if self._there:
            return True
        if self._stale:
            self._submit()
        try:
            if timeout is not None:
                if not self.shard.started(timeout):
                    return False
                ready, _ = ray.wait([self._reference], timeout=timeout)
                if not ready:
                    return False
            self._value = self.shard.opened(self._result())
        except DEATHS as error:
            self._replace(error)
            self._submit()
            return False
        self._there = True
        return True

    def _result(self) -> Any:
        while not self.shard.started(None):
            pass
        try:
            return ray.get(self._reference)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def _replace(self, error: Exception) -> None:
        if self._died or self.shard.died:
            self._give_up(error)
        self._died = self.shard.died = True
        logger.warning("%s died and is built anew: %s", self.shard, reason_of(error))
        self.shard.rebuild()

    def _give_up(self, error: Exception) -> None:
        self.shard.stop()
        self.shard.died = False
        whose = f" for partitions {', '.join(map(str, self._about))}" if self._about else ""
        raise RuntimeError(
            f"{self.shard} died twice in one round, the second time over "
            f"'{self._method}'{whose}: {reason_of(error)}"
        ) from error


def wait_for_any(answers: Sequence[Answer], timeout: float | None) -> None:
    """Wait until one of them may have something new, at most so many seconds (None: any)."""
    limits = [timeout, *(answer.shard.patience for answer in answers)]
    references = [answer._reference for answer in answers]
    ray.wait(references, timeout=min((s for s in limits if s is not None), default=None))
