"""What a room says of its method: three methods that it must have, and some that it may have.

`BaseStrategy` asks them and does the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fedstrategies.flower.contract import Assignment, Delivery, Update

__all__ = ["MethodHooks"]


class MethodHooks:
    """The mathematics of a method, as the shell asks for it; to be inherited with `Strategy`."""

    @abstractmethod
    def prepare(self, x: Tensor) -> None:
        """Fix constants and state, once x^0 (d,) and ``self.clients`` (n) are known.

        Raises
        ------
        ValueError
            If the settings are impossible for this d and n.
        """

    @abstractmethod
    def plan(self, round: int) -> list[Assignment]:
        """Who does what in communication round ``round``; assignments are disjoint."""

    @abstractmethod
    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """What the uploads make of the model; nothing may change here, see `Update`."""

    def forget(self) -> None:
        """All client memories were reset: make the server's own state follow (default: none)."""

    @property
    def state_classes(self) -> tuple[type, ...]:
        """Dataclasses that `method_state` has in it (default: none)."""
        return ()

    def method_state(self) -> Mapping[str, object]:
        """The room's own state for a checkpoint, as `fedstrategies.snapshots` can hold it."""
        return {}

    def set_method_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `method_state` gave (default: there is nothing)."""

    def begin(self, num_rounds: int) -> None:
        """Look at how many rounds `start` was asked for (default: nothing)."""

    @property
    def asks_for_parts(self) -> bool:
        """Whether some requests are for part of a client's gradient (see ``at_work``)."""
        return False

    def note_noise(self) -> None:
        """Clients turned out to be private, with noise in what they send (default: nothing)."""

    def hopeless(self, faulty: int, asked: int) -> bool:
        """Whether to give up, as ``faulty`` of the clients asked failed by their own fault."""
        return faulty == asked

    def evaluation_constants(self, partition: int) -> tuple[float, ...]:
        """What the client of a partition must know to evaluate its model (default: nothing)."""
        return ()

    @property
    def incidents(self) -> Mapping[str, int]:
        """What happened so far that the method did not plan, by name (default: not counted)."""
        return {}

    @property
    def constants(self) -> dict[str, float]:
        """What the room's analysis chose, by name, once `prepare` has run (default: nothing)."""
        return {}
