"""EF21-P: the server sends compressed differences of the model and remembers what it has sent.

Besides its model x the server keeps w, the model as the clients know it. Each round

    w <- w + scale * C(x - w)

and only C(x - w) travels; clients rebuild w and compute there. What C leaves out stays in x - w
and is sent later. The first w is x itself, sent whole.

Source of the method: Gruntkowska, Tyurin, Richtarik, "EF21-P and Friends" (2022). The book-keeping
of versions for clients that are not there every round is ours, see docs/reliability.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedstrategies.compressors import Compressor
from fedstrategies.flower.edition import Edition
from fedstrategies.flower.replica import Replica
from fedstrategies.random import Purpose, client_keys

__all__ = ["Broadcast"]

logger = logging.getLogger("flwr")

_NEVER = 0
_LONGEST_PAUSE = 64


@dataclass
class _Lapse:
    """Of a client that was behind, until it is known to hold a version again."""

    times: int = 0
    """How often it was, without having used a difference in between."""
    pause: int = 0
    """Its answers from whole models before a difference is tried again."""

    def again(self) -> None:
        """It was behind once more."""
        self.times += 1
        self.pause = 1 if self.times == 1 else min(2 ** (self.times + 1), _LONGEST_PAUSE)


class Broadcast:
    """The server's half of a compressed downlink.

    Nothing changes when a round is proposed; `follow` commits. Which version a client holds is
    known from its own answers, so that a lost message costs a longer path and never a wrong model.

    Parameters
    ----------
    compressor : Compressor
        C.
    clients : int
        n.
    seed : int
        Of the run: the draws of C are a function of it and the round.
    scale : float
        Factor of the differences.
    """

    def __init__(
        self, compressor: Compressor, *, clients: int, seed: int, scale: float = 1.0
    ) -> None:
        self.compressor = compressor
        self.seed = seed
        self.scale = scale
        self.current: Edition | None = None
        """Of the last committed round."""
        self._proposed: tuple[int, Tensor, Edition] | None = None
        self._made = 0
        self._held = np.full(clients, _NEVER, dtype=np.int64)
        self._lost: set[int] = set()
        self._lapses: dict[int, _Lapse] = {}
        self._resumed: set[int] = set()

    def propose(self, x: Tensor, round: int) -> Edition:
        """The version to compute at in a round; the same again for the same x and round.

        Where the difference, or the w that it leads to, is not finite in the type of its numbers
        (float16 values, say, or a float32 model near its end), x itself is sent whole: w moves by
        all of x - w, which leaves no error, but may be further than M of the analysis says.

        Parameters
        ----------
        x : Tensor
            The server's model, shape (d,).
        round : int
            Communication round t.
        """
        if self._proposed is not None:
            when, where, edition = self._proposed
            if when == round and torch.equal(where, x):
                return edition
        self._made += 1
        edition = self._make(x, round)
        self._proposed = (round, x, edition)
        return edition

    def _make(self, x: Tensor, round: int) -> Edition:
        if self.current is None:
            return Edition.whole(self._made, x, self.scale)
        keys = client_keys(self.seed, round, torch.zeros(1, dtype=torch.int64), Purpose.DOWNLINK)
        payload = self.compressor.compress((x - self.current.w)[None], keys)
        if payload.is_finite():
            edition = self.current.next(self._made, payload)
            # A finite difference can still lead beyond the largest number: natural rounds up.
            if bool(torch.isfinite(edition.w).all()):
                return edition
        return Edition.whole(self._made, x, self.scale)

    def follow(self, edition: Edition) -> None:
        """The round is committed: ``edition`` is what the next difference is taken to."""
        self.current, self._proposed = edition, None

    # ---------------------------------------------------------------- who holds what

    def held(self, partition: int) -> int:
        """The newest version that a client is known to hold; 0: none, it is sent w whole."""
        return _NEVER if partition in self._resumed else int(self._held[partition])

    def is_repair(self, partition: int, edition: Edition) -> bool:
        """Whether a client is sent w whole because it has lost what it held."""
        return partition in self._lost and edition.steps_from(self.held(partition)) is None

    def confirm(self, partitions: Iterable[int], edition: Edition) -> None:
        """These clients have answered from ``edition``: they hold it.

        But for those that were behind again and again: an answer from a whole model does not say
        that they keep it, see `fell_behind`.
        """
        answered = list(partitions)
        if self._lapses:
            answered = [p for p in answered if self._holds(p, edition)]
        self._held[answered] = edition.number
        self._lost.difference_update(answered)
        self._resumed.difference_update(answered)

    def _holds(self, partition: int, edition: Edition) -> bool:
        """Whether to take it that a client which has answered still has the model next time."""
        lapse = self._lapses.get(partition)
        if lapse is None:
            return True
        if edition.steps_from(self.held(partition)) is not None:
            del self._lapses[partition]  # it had kept what the differences were added to
            return True
        lapse.pause -= 1
        return lapse.pause <= 0

    def forget(self, partition: int) -> None:
        """What a client held is lost: it is sent w whole."""
        self._held[partition] = _NEVER
        self._lost.add(partition)
        self._resumed.discard(partition)

    def fell_behind(self, partition: int) -> None:
        """A client says that it cannot rebuild what it was asked for: it is sent w whole.

        From the second time on, unless it has used a difference in between, it counts as one that
        keeps nothing: it is sent w whole for 8, 16, 32, then 64 of its answers before a difference
        is tried again, so that it does not fail every second round. Such models are repairs.
        """
        if self.held(partition) == _NEVER:
            return  # a doubled reply, or one to a whole model
        self.forget(partition)
        lapse = self._lapses.setdefault(partition, _Lapse())
        lapse.again()
        if lapse.times == 2:
            logger.warning(
                "partition %d keeps no state between rounds: it is sent the whole model; leave "
                "the downlink dense if many do",
                partition,
            )

    def charge(self, partition: int, edition: Edition) -> tuple[int, int]:
        """Bytes for one client: ordinary downlink, and repairs of what was lost.

        After a restart of the server it is sent w whole. What it would have been sent without
        counts as downlink, and the rest as repair.
        """
        if partition not in self._resumed:
            return self.sizes(torch.tensor([partition]), edition)
        whole, ordinary = sum(edition.sizes(_NEVER)), sum(edition.sizes(int(self._held[partition])))
        return ordinary, whole - ordinary

    def sizes(self, partition_ids: Tensor, edition: Edition) -> tuple[int, int]:
        """Bytes for some clients together: ordinary downlink, and repairs of what was lost."""
        members = partition_ids.numpy()
        versions, counts = np.unique(self._held[members], return_counts=True)
        downlink = sum(
            int(count) * sum(edition.sizes(int(version)))
            for version, count in zip(versions, counts, strict=True)
        )
        repairs = sum(self.is_repair(p, edition) for p in self._lost.intersection(members.tolist()))
        return downlink - repairs * edition.frame_size, repairs * edition.frame_size

    # ---------------------------------------------------------------- restarts

    def snapshot(self) -> dict[str, object]:
        """What must survive this process; a round that was proposed is proposed again."""
        return {
            "current": None if self.current is None else self.current.snapshot(),
            "made": self._made,
            "held": torch.from_numpy(self._held.copy()),
            "lost": set(self._lost),
            "lapses": {partition: asdict(lapse) for partition, lapse in self._lapses.items()},
        }

    def resume(self, kept: Mapping[str, Any]) -> None:
        """Go on from `snapshot`: whatever clients hold, they are sent w whole first."""
        self.current = None if kept["current"] is None else Edition.resumed(kept["current"])
        self._proposed, self._made = None, kept["made"]
        self._held, self._lost = kept["held"].numpy().copy(), set(kept["lost"])
        self._lapses = {partition: _Lapse(**lapse) for partition, lapse in kept["lapses"].items()}
        self._resumed = set(range(len(self._held)))

    def restored(self) -> None:
        """Clients hold what the server believes: on the fast path nothing is sent to them."""
        self._resumed.clear()

    def replicas(self, session: int) -> list[tuple[npt.NDArray[np.int64], Replica]]:
        """What the clients hold: partitions (one array a version) and the replica they share.

        Clients whose version is off the path are left out: they will be sent w whole.
        """
        edition = self.current if self._proposed is None else self._proposed[2]
        if edition is None:
            return []
        return [
            (np.flatnonzero(self._held == number), Replica(session=session, number=number, w=w))
            for number, w in edition.versions().items()
        ]
