"""What a client has spent: numbers of releases by mechanism, a join semilattice."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from fedstrategies.privacy.accountant import Accountant, composed_epsilon
from fedstrategies.privacy.errors import PrivacyError

__all__ = ["Ledger", "Segment"]

_MAGIC = b"DPL1"
_ENTRY = struct.Struct("<ddQ")
_MOST_SEGMENTS = 4096
_MOST_STEPS = 2**53


@dataclass(frozen=True, order=True)
class Segment:
    """Releases of one mechanism.

    Attributes
    ----------
    noise_multiplier : float
        sigma >= 0: standard deviation of the noise over the clipping norm C.
    sample_rate : float
        q in (0, 1], the probability of each example to be in a release.
    steps : int
        Number of releases, at least 1.

    Raises
    ------
    PrivacyError
        If a number is not as above.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (isfinite(self.noise_multiplier) and self.noise_multiplier >= 0.0):
            raise PrivacyError(
                f"a noise multiplier is a finite number >= 0, got {self.noise_multiplier}"
            )
        if not 0.0 < self.sample_rate <= 1.0:
            raise PrivacyError(f"a sample rate lies in (0, 1], got {self.sample_rate}")
        if not 1 <= self.steps <= _MOST_STEPS:
            raise PrivacyError(f"a number of releases lies in 1..2**53, got {self.steps}")


@dataclass(frozen=True)
class Ledger:
    """All releases of one client so far.

    Releases compose in any order, so a ledger counts them by mechanism. Two copies of one
    client's ledger are joined by the larger count of each mechanism. Where one copy continues the
    other, that is the longer one. Where each knows something the other does not, nothing known
    is forgotten: epsilon of the join is at least that of both copies. As a maximum taken entry by
    entry the join is idempotent, commutative and associative (a grow-only counter), so copies
    may meet in any order and any number of times.

    A ledger is public: it holds settings and counts, nothing of the data.

    Attributes
    ----------
    segments : tuple of Segment
        Ascending, one for each (noise multiplier, sample rate).

    Raises
    ------
    PrivacyError
        If the segments are not in that form.
    """

    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        kinds = [(one.noise_multiplier, one.sample_rate) for one in self.segments]
        if any(left >= right for left, right in pairwise(kinds)):
            raise PrivacyError("the segments of a ledger must ascend and differ in mechanism")
        if len(kinds) > _MOST_SEGMENTS:
            raise PrivacyError(f"a ledger holds {_MOST_SEGMENTS} mechanisms, got {len(kinds)}")

    @property
    def releases(self) -> int:
        """Number of releases charged: the counter of the next one.

        Charging and joining never lower it.
        """
        return sum(segment.steps for segment in self.segments)

    def count(self, *, noise_multiplier: float, sample_rate: float) -> int:
        """Number of releases of one mechanism."""
        return self._counts().get((noise_multiplier, sample_rate), 0)

    def charge(self, *, noise_multiplier: float, sample_rate: float, steps: int = 1) -> Ledger:
        """The ledger after ``steps`` more releases; to be kept before any of them is made.

        Raises
        ------
        PrivacyError
            If a number is impossible; see `Segment`.
        """
        more = Segment(noise_multiplier, sample_rate, steps)
        counts = self._counts()
        kind = (more.noise_multiplier, more.sample_rate)
        counts[kind] = counts.get(kind, 0) + more.steps
        return self._of_counts(counts)

    def join(self, other: Ledger) -> Ledger:
        """What two copies know together: the larger count of each mechanism."""
        counts = self._counts()
        for kind, steps in other._counts().items():
            counts[kind] = max(counts.get(kind, 0), steps)
        return self._of_counts(counts)

    def covers(self, other: Ledger) -> bool:
        """Whether this copy knows all that ``other`` does (its join with it is itself)."""
        return self.join(other) == self

    def scaled(self, factor: float) -> Ledger:
        """The same releases with all noise multipliers times ``factor``."""
        return self._of_counts(
            {(factor * one.noise_multiplier, one.sample_rate): one.steps for one in self.segments}
        )

    def epsilon(self, delta: float, *, accountant: Accountant = "rdp") -> float:
        """Epsilon at delta of everything charged; see `composed_epsilon`.

        Raises
        ------
        PrivacyError
            As `composed_epsilon`.
        """
        triples = tuple((s.noise_multiplier, s.sample_rate, s.steps) for s in self.segments)
        return composed_epsilon(triples, delta, accountant)

    def to_bytes(self) -> bytes:
        """The ledger as bytes, 4 and 24 a mechanism; equal ledgers give equal bytes."""
        entries = (
            _ENTRY.pack(one.noise_multiplier, one.sample_rate, one.steps) for one in self.segments
        )
        return _MAGIC + b"".join(entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Ledger:
        """The ledger that `to_bytes` wrote.

        Raises
        ------
        PrivacyError
            If the bytes are no ledger.
        """
        body = data[len(_MAGIC) :]
        if data[: len(_MAGIC)] != _MAGIC or len(body) % _ENTRY.size:
            raise PrivacyError(f"{len(data)} bytes that are no ledger of privacy")
        if len(body) > _MOST_SEGMENTS * _ENTRY.size:
            raise PrivacyError(f"a ledger holds at most {_MOST_SEGMENTS} mechanisms")
        return cls(tuple(Segment(*entry) for entry in _ENTRY.iter_unpack(body)))

    def _counts(self) -> dict[tuple[float, float], int]:
        return {(one.noise_multiplier, one.sample_rate): one.steps for one in self.segments}

    @staticmethod
    def _of_counts(counts: dict[tuple[float, float], int]) -> Ledger:
        return Ledger(tuple(Segment(*kind, counts[kind]) for kind in sorted(counts)))
