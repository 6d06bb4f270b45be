"""A Ray actor as the driver sees it: started, asked, and built anew where it dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import ray
import torch

from fedstrategies.engines.letterbox import Letter, Letterbox, Reply
from fedstrategies.engines.parcel import Parcel
from fedstrategies.engines.ray_answer import Answer
from fedstrategies.engines.ray_failures import PLACING_SECONDS, not_placed

__all__ = ["Shard"]


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
        Tells a new actor what the old one knew, as far as it is known elsewhere; it is not to
        wait.
    """

    def __init__(self, build: Callable[[tuple[int, ...]], Any], partitions: Sequence[int]) -> None:
        self.partitions = torch.tensor(list(partitions))
        self.generation = 0
        self.died = False
        self.on_rebuilt: Callable[[Shard], None] | None = None
        self._build = build
        self._actor: Any = None
        self._starting: tuple[Any, float] | None = None
        """What a new actor answers first, and until when, while that is not there."""
        self._box = Letterbox()
        self._closed = False

    def __str__(self) -> str:
        first, last = int(self.partitions[0]), int(self.partitions[-1])
        if first == last:
            return f"the Ray actor of client {first}"
        count = len(self.partitions)
        some = "" if count == last - first + 1 else f"{count} of "
        return f"the Ray actor of {some}clients {first} to {last}"

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

        Raises
        ------
        RuntimeError
            If the grid is closed.
        """
        return Answer(self, method, arguments, about)

    def submit(self, method: str, arguments: tuple[object, ...]) -> Any:
        """A reference to what the actor will answer."""
        if self._actor is None:
            self.rebuild()
        told = [self._addressed(one) if isinstance(one, Reply) else one for one in arguments]
        return getattr(self._actor, method).remote(*told)

    def _addressed(self, reply: Reply) -> Reply:
        if reply.first:
            self._box.make_room()
        return replace(reply, address=self._box.address)

    def opened(self, answer: Any) -> Any:
        """What the present actor answered, wherever it put it."""
        if isinstance(answer, Letter):
            return Parcel(self._box.read(answer))
        if isinstance(answer, Parcel):
            self._box.note(answer.size)
        return answer

    def rebuild(self) -> None:
        """Start another actor in place of this one, if there is one; nobody waits for it here."""
        if self._closed:
            raise RuntimeError("this RayGrid is closed; make a new one")
        replaces = self.generation > 0
        self.stop()
        # Nobody knows how far the one before it has come: it may still be writing.
        self._box = Letterbox()
        self._actor = self._build(tuple(self.partitions.tolist()))
        self.generation += 1
        if replaces:
            self._starting = (self._actor.ready.remote(), monotonic() + PLACING_SECONDS)
            if self.on_rebuilt is not None:
                self.on_rebuilt(self)

    @property
    def patience(self) -> float | None:
        """Seconds a new actor still has to start; None: it has started."""
        return None if self._starting is None else max(0.0, self._starting[1] - monotonic())

    def started(self, timeout: float | None) -> bool:
        """Whether the actor has started, waiting at most so many seconds (None: any).

        Raises
        ------
        RuntimeError
            If Ray does not place an actor that was built anew.
        RayActorError
            If it died on the way.
        """
        if self._starting is None:
            return True
        left = self.patience
        assert left is not None
        ready, _ = ray.wait(
            [self._starting[0]], timeout=left if timeout is None else min(left, timeout)
        )
        if ready:
            first, self._starting = self._starting[0], None
            ray.get(first)
            return True
        if not self.patience:
            self.stop()
            raise RuntimeError(f"{self} died, and {not_placed('another one')}")
        return False

    def stop(self) -> None:
        """End the actor."""
        self._starting = None
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def close(self) -> None:
        """End the actor for good: none is started in its place."""
        self._closed = True
        self.stop()
