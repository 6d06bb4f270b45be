"""The server's side of the receipts: what was asked, what was used, who must be restored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedstrategies.flower.control import MemoryCommand, Response, Status, Tag

__all__ = ["SPENT", "Ledger", "Rejected", "Spent"]

_LONGEST_PAUSE = 64
"""Attempts."""

SPENT = "its privacy budget is spent; it trains no more"


class Rejected(ValueError):
    """A reply the server must not use; says why."""


class Spent(Rejected):
    """The client's privacy budget is spent."""


@dataclass
class _Recovery:
    command: MemoryCommand
    tries: int = 0
    not_before: int = 0


class Ledger:
    """Accepted uploads of n clients, in arrays (a thousand objects a round would be slow).

    Parameters
    ----------
    clients : int
        n.
    session : int or None
        A number larger than that of every earlier run which these clients may remember;
        None: nanoseconds since 1970.
    patient : bool
        Whether memories are sent ever more rarely to a client that loses them again and again;
        not where a round without it counts for nothing.
    """

    def __init__(self, clients: int, *, session: int | None = None, patient: bool = True) -> None:
        self._longest_pause = _LONGEST_PAUSE if patient else 1
        self.session = time.time_ns() if session is None else session
        self.sequence = 0
        self._accepted_session = np.zeros(clients, dtype=np.uint64)
        self._accepted_sequence = np.zeros(clients, dtype=np.uint64)
        self._accepted_checksum = np.zeros(clients, dtype=np.uint32)
        self._uploaded = np.zeros(clients, dtype=np.bool_)
        self._recovering: dict[int, _Recovery] = {}
        self._resets: dict[int, _Recovery] = {}
        self._resumed: set[int] = set()
        self._open: set[int] = set()

    def open_attempt(self, partition_ids: list[int]) -> None:
        """Begin an attempt: a new id, and one answer expected of each partition."""
        self.sequence += 1
        self._open = set(partition_ids)

    @property
    def attempt(self) -> tuple[int, int]:
        """(session, sequence) of the current attempt."""
        return self.session, self.sequence

    def accepted(self, partition: int) -> Tag:
        """Tag of the last upload of ``partition`` that was used."""
        return Tag(
            int(self._accepted_session[partition]),
            int(self._accepted_sequence[partition]),
            int(self._accepted_checksum[partition]),
        )

    def has_accepted(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether any upload of each client was ever used: shape (n,)."""
        return self._uploaded.copy()

    def enrol(self, clients: int) -> None:
        """Make room for clients up to n = ``clients``, for books that grow as nodes come."""
        more = (0, max(0, clients - len(self._uploaded)))
        self._accepted_session = np.pad(self._accepted_session, more)
        self._accepted_sequence = np.pad(self._accepted_sequence, more)
        self._accepted_checksum = np.pad(self._accepted_checksum, more)
        self._uploaded = np.pad(self._uploaded, more)

    def recovery(self, partition: int) -> MemoryCommand:
        """What to order about the memory of ``partition`` in this attempt.

        A client that answers ``lost`` again and again is sent its memory ever more rarely (if
        the ledger is ``patient``), so that a broken one cannot draw a dense download every round.
        The order to start anew costs nothing and is repeated until an upload is used.
        """
        state = self._recovering.get(partition)
        if state is None:
            return MemoryCommand.KEEP
        if state.command is MemoryCommand.ZERO:
            return state.command
        if self.sequence < state.not_before:
            return MemoryCommand.KEEP
        state.tries += 1
        state.not_before = self.sequence + min(2 ** (state.tries - 1), self._longest_pause)
        return state.command

    def may_reset(self, partition: int) -> bool:
        """Whether a client's word that its memory is lost starts all memories anew.

        Not if it was just ordered to start anew, which it can always do. And ever more rarely, so
        that one client that lies does not keep the others from learning anything.
        """
        if self.recovery(partition) is MemoryCommand.ZERO:
            return False
        state = self._resets.setdefault(partition, _Recovery(MemoryCommand.ZERO))
        if self.sequence < state.not_before:
            return False
        state.tries += 1
        state.not_before = self.sequence + min(2**state.tries, _LONGEST_PAUSE)
        return True

    def judge(self, partition: int, response: Response, blob: bytes) -> Tag:
        """The tag under which a reply may be used; closes the partition for this attempt.

        Raises
        ------
        Rejected
            If the reply is of another attempt, a duplicate, not an upload, or computed from a
            memory other than the one the server knows.
        Spent
            If the client may not make any more releases.
        """
        if response.session != self.session:
            raise Rejected("answers a request of another run")
        if response.sequence != self.sequence:
            raise Rejected(
                f"answers attempt {response.sequence}, the current one is {self.sequence} (late)"
            )
        if partition not in self._open:
            raise Rejected("duplicate reply")
        if response.status is Status.LOST:
            self._open.discard(partition)
            raise Rejected("its memory is lost; it will be restored with the next request")
        if response.status is Status.BEHIND:
            self._open.discard(partition)
            raise Rejected("its copy of the model is lost; it will be sent whole next time")
        if response.status is Status.SPENT:
            self._open.discard(partition)
            raise Spent(SPENT)
        if response.status is not Status.UPLOAD:
            raise Rejected(f"answered {response.status.name.lower()}")
        if response.base != self.accepted(partition).digest():
            raise Rejected("was computed from another memory than the server's copy")
        return Tag.of(self.attempt, blob)

    def close(self, partition: int) -> None:
        """Take no further reply of ``partition`` in this attempt."""
        self._open.discard(partition)

    def require_recovery(self, partition: int, command: MemoryCommand) -> None:
        """Order a recovery until an upload of ``partition`` is used."""
        state = self._recovering.get(partition)
        if state is None or state.command is not command:
            self._recovering[partition] = _Recovery(command)

    def commit(self, tags: dict[int, Tag]) -> None:
        """Record uploads as used."""
        self._record(tags)
        self._uploaded[list(tags)] = True

    def _record(self, tags: dict[int, Tag]) -> None:
        for partition, tag in tags.items():
            self._accepted_session[partition] = tag.session
            self._accepted_sequence[partition] = tag.sequence
            self._accepted_checksum[partition] = tag.checksum
            self._recovering.pop(partition, None)
            self._resumed.discard(partition)

    def commit_batch(self, partition_ids: Tensor) -> None:
        """Record uploads that never became bytes (the in-process fast path), checksum 0."""
        rows = partition_ids.numpy()
        self._accepted_session[rows] = self.session
        self._accepted_sequence[rows] = self.sequence
        self._accepted_checksum[rows] = 0
        self._uploaded[rows] = True
        for partition in rows.tolist() if self._recovering else ():
            self._recovering.pop(partition, None)

    def snapshot(self) -> dict[str, object]:
        """What must survive this process; ids are kept as int64 of the same bits."""
        return {
            "session": self.session,
            "sequence": self.sequence,
            "accepted_session": torch.from_numpy(self._accepted_session.view(np.int64).copy()),
            "accepted_sequence": torch.from_numpy(self._accepted_sequence.view(np.int64).copy()),
            "accepted_checksum": torch.from_numpy(self._accepted_checksum.astype(np.int64)),
            "uploaded": torch.from_numpy(self._uploaded.copy()),
        }

    def resume(self, kept: Mapping[str, Any], command: MemoryCommand) -> None:
        """Go on from `snapshot`, in a session of its own.

        Clients may have gone on since, or be gone. So everyone is ordered to begin from the
        memory it had then with its next request, and no answer *lost* costs a round. Where no
        upload was ever used that is the initial memory, which is ordered without sending it.

        Parameters
        ----------
        kept : mapping
            What `snapshot` gave.
        command : MemoryCommand
            How the others get theirs: `MemoryCommand.TAKE`, or ``KEEP`` if clients of this method
            have none.
        """
        self.session = max(self.session, int(kept["session"]) + 1)
        self._accepted_session = kept["accepted_session"].numpy().view(np.uint64).copy()
        self._accepted_sequence = kept["accepted_sequence"].numpy().view(np.uint64).copy()
        self._accepted_checksum = kept["accepted_checksum"].numpy().astype(np.uint32)
        self._uploaded = kept["uploaded"].numpy().copy()
        self.sequence = int(kept["sequence"])
        if command is MemoryCommand.KEEP:
            return
        self._resumed = set(range(len(self._uploaded)))
        for partition, used in enumerate(self._uploaded.tolist()):
            self.require_recovery(partition, command if used else MemoryCommand.ZERO)

    def is_resumed(self, partition: int) -> bool:
        """Whether a client is about to be sent its memory because the server went on from a file.

        What its node remembers does not matter then.
        """
        return partition in self._resumed

    def restored(self) -> None:
        """All clients with a memory of their own have it: nobody needs to be sent it."""
        self._resumed.clear()
        for partition in np.flatnonzero(self._uploaded).tolist() if self._recovering else ():
            self._recovering.pop(partition, None)

    def reset(self) -> None:
        """Open a new memory epoch: every client is ordered to start from its initial memory."""
        self.sequence += 1
        everyone = range(len(self._accepted_session))
        epoch = Tag(self.session, self.sequence, 0)
        self._record(dict.fromkeys(everyone, epoch))
        for partition in everyone:
            self.require_recovery(partition, MemoryCommand.ZERO)
