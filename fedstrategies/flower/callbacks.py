"""Who follows a run, and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = [
    "Callback",
    "ResumableCallback",
    "RoundRecord",
]


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a callback learns after each round.

    Attributes
    ----------
    round : int
        t, from 1.
    outer_round : int
        Cohorts done with: t itself, except where a cohort is asked for several rounds.
    x : Tensor
        Server model after the round, shape (d,). Not to be changed.
    participants, failures : int
        Uploads used; clients asked whose upload was not.
    uplink_bytes, downlink_bytes, recovery_bytes : int
        Bytes that travelled so far over all clients; recovery is not part of downlink.
    """

    round: int
    outer_round: int
    x: Tensor
    participants: int
    failures: int
    uplink_bytes: int
    downlink_bytes: int
    recovery_bytes: int


class Callback(Protocol):
    """Follows a run; called in the server process, between rounds."""

    def on_start(self, x: Tensor) -> None:
        """Before the first round, with x^0."""

    def on_round(self, record: RoundRecord) -> bool | None:
        """After each round; True stops the run."""

    def on_end(self) -> None:
        """After the last round, also when the run failed."""


@runtime_checkable
class ResumableCallback(Callback, Protocol):
    """One with a state of its own, which checkpoints keep.

    Others are told of the start where a run goes on from a checkpoint, with the model it has.
    """

    def state(self) -> Mapping[str, object]:
        """What must survive this process, as `fedstrategies.snapshots` can hold it.

        Asked for between rounds; what this callback wrote to files must be on the disk.
        """

    def on_resume(self, kept: Mapping[str, Any], x: Tensor) -> bool | None:
        """In place of ``on_start``: go on from what `state` gave, with the model x^t, (d,).

        True: there is nothing left to do, as of ``on_round``. A ValueError refuses the checkpoint.
        """
