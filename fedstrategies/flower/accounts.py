"""What the clients have spent of their privacy, as far as the server knows."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from fedstrategies.flower.account import MOST_OWED, Account, few_mechanisms
from fedstrategies.flower.errors import ProtocolError
from fedstrategies.privacy import Accountant, PrivacyError, composed_epsilon
from fedstrategies.privacy import Ledger as PrivacyLedger

__all__ = ["Accounts"]

_HEAD = struct.Struct("<4sI")
_ENTRY = struct.Struct("<QI")
_MAGIC = b"ACC1"
_BEFORE = -1
# Outside of these Opacus raises, or takes seconds to for ever. Moving to the nearer end only
# raises epsilon; below the smallest sigma it is counted as infinite.
_LEAST_SIGMA, _MOST_SIGMA, _LEAST_RATE = 1e-3, 1e3, 1e-12


class Accounts:
    """The spending of n clients, by partition: what replies said, joined, and what none did.

    Every reply informs, whether or not its upload is used. Ledgers are joined (the larger count
    of each mechanism), so that late and doubled ones change nothing. A request counts as
    unanswered until a reply to it or to a later one brings a ledger: a client acts on requests
    in ascending order, so such a ledger covers all that the node did before.

    Parameters
    ----------
    clients : int
        n.
    """

    def __init__(self, clients: int = 0) -> None:
        self._ledgers = [PrivacyLedger()] * clients
        # By partition: (sequence of the attempt, work) of each request without an answer.
        self._open: list[list[tuple[int, int]]] = [[] for _ in range(clients)]
        self._private = False
        self._plain: set[int] = set()
        """Whose last reply brought an upload without a ledger."""

    def __len__(self) -> int:
        return len(self._ledgers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Accounts) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def sized(self, clients: int) -> Accounts:
        """These accounts if they are of n clients; new ones if they are of none.

        Raises
        ------
        ValueError
            If they are of another number of clients.
        """
        if not len(self):
            return Accounts(clients)
        if len(self) != clients:
            raise ValueError(
                f"the accounts of privacy are of {len(self)} clients, the run has {clients}"
            )
        return self

    @property
    def private(self) -> bool:
        """Whether any client has told of a ledger."""
        return self._private

    @property
    def noisy(self) -> bool:
        """Whether any release that was told of had noise, or a sample of the rows behind it."""
        return self._private and any(
            segment.noise_multiplier > 0.0 or segment.sample_rate < 1.0
            for ledger in self._ledgers
            for segment in ledger.segments
        )

    def ledger(self, partition: int) -> PrivacyLedger:
        """The server's copy of a client's ledger."""
        return self._ledgers[partition]

    def unanswered(self, partition: int) -> int:
        """Work of the requests to a client that no ledger has covered yet."""
        return sum(work for _, work in self._open[partition])

    def account(self, partition: int) -> Account:
        """What to tell a client before the next request.

        Nothing as long as no client has turned out to be private, unless this one was asked before
        and nobody knows whether it is: its first answers may be lost, and its record with them.
        """
        owed = min(self.unanswered(partition), MOST_OWED)
        if not (self._private or (owed and partition not in self._plain)):
            return Account()
        return Account(ledger=self._ledgers[partition], unanswered=owed)

    def asked(self, partition: int, sequence: int, work: int) -> None:
        """A request goes out."""
        self._open[partition].append((sequence, work))

    def asked_before(self, partition: int, work: int) -> None:
        """An earlier server asked a client for work that no checkpoint knows of."""
        self._open[partition].append((_BEFORE, work))

    def heard(self, partition: int, ledger: PrivacyLedger, *, up_to: int) -> None:
        """A reply brought a ledger that covers all requests up to an attempt (0: none).

        Raises
        ------
        ValueError
            If the client has told of more mechanisms by now than any honest one has (16).
        """
        if ledger != self._ledgers[partition]:
            self._ledgers[partition] = few_mechanisms(self._ledgers[partition].join(ledger))
        self._private = True
        self._plain.discard(partition)
        self._answered(partition, up_to)

    def heard_plain(self, partition: int, *, up_to: int) -> None:
        """A reply brought an upload and no ledger: the client is not private."""
        self._plain.add(partition)
        self._answered(partition, up_to)

    def asked_in(self, sequence: int) -> dict[int, int]:
        """Work asked for in an attempt, by partition, of clients that may be private."""
        return {
            partition: work
            for partition, entries in enumerate(self._open)
            if partition not in self._plain
            for asked, work in entries
            if asked == sequence
        }

    def joined(self, other: Accounts) -> Accounts:
        """What both know of the same clients: ledgers joined, and what either has not covered.

        Raises
        ------
        ValueError
            If they are of another number of clients.
        """
        both = Accounts(len(self.sized(len(other))))
        for partition in range(len(both)):
            for one in (self, other):
                if one._ledgers[partition].segments:
                    both.heard(partition, one._ledgers[partition], up_to=0)
                both._open[partition] += one._open[partition]
        return both

    def released_nothing(self, partition: int, sequence: int) -> None:
        """The client answered the request of an attempt without computing anything."""
        self._open[partition] = [one for one in self._open[partition] if one[0] != sequence]

    def _answered(self, partition: int, up_to: int) -> None:
        """All requests up to an attempt are covered; 0 is none, not those of earlier servers."""
        if up_to:
            self._open[partition] = [one for one in self._open[partition] if one[0] > up_to]

    def epsilons(self, delta: float, *, accountant: Accountant = "rdp") -> Tensor:
        """Epsilon at delta of each client: float64, shape (n,); 0 where none was heard of.

        Raises
        ------
        PrivacyError
            As `fedstrategies.privacy.composed_epsilon`, but for numbers that it cannot compute
            with: those give an upper bound, with ``prv`` that of ``rdp``.
        """
        return torch.tensor(
            [_epsilon(ledger, delta, accountant) for ledger in self._ledgers], dtype=torch.float64
        )

    def largest(self, delta: float, *, accountant: Accountant = "rdp") -> float:
        """Epsilon of the client that has spent most; 0 without clients."""
        return max(self.epsilons(delta, accountant=accountant).tolist(), default=0.0)

    def mean(self, delta: float, *, accountant: Accountant = "rdp") -> float:
        """Mean of epsilon over the clients; 0 without clients."""
        epsilons = self.epsilons(delta, accountant=accountant)
        return float(epsilons.mean()) if len(epsilons) else 0.0

    def to_bytes(self) -> bytes:
        """Everything, for a checkpoint: public numbers."""
        parts = [_HEAD.pack(_MAGIC, len(self))]
        for partition, ledger in enumerate(self._ledgers):
            packed = ledger.to_bytes()
            parts += [_ENTRY.pack(self.unanswered(partition), len(packed)), packed]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Accounts:
        """What `to_bytes` wrote; requests unanswered then precede every later attempt.

        Raises
        ------
        ValueError
            If the bytes are no accounts.
        """
        try:
            magic, clients = _HEAD.unpack_from(data)
            if magic != _MAGIC or clients * _ENTRY.size > len(data):
                raise ProtocolError("these bytes are no accounts of privacy")
            accounts, place = cls(clients), _HEAD.size
            for partition in range(clients):
                owed, length = _ENTRY.unpack_from(data, place)
                place += _ENTRY.size
                ledger = PrivacyLedger.from_bytes(data[place : place + length])
                place += length
                if ledger.segments:
                    accounts.heard(partition, ledger, up_to=0)
                if owed:
                    accounts.asked(partition, 0, owed)
        except struct.error:
            raise ProtocolError("accounts of privacy: the bytes end too early") from None
        if place != len(data):
            raise ProtocolError(f"accounts of privacy: {len(data) - place} bytes too many")
        return accounts


def _epsilon(ledger: PrivacyLedger, delta: float, accountant: Accountant) -> float:
    triples = tuple(
        (
            min(one.noise_multiplier, _MOST_SIGMA) if one.noise_multiplier >= _LEAST_SIGMA else 0.0,
            max(one.sample_rate, _LEAST_RATE),
            one.steps,
        )
        for one in ledger.segments
    )
    bound = composed_epsilon(triples, delta, "rdp")
    if accountant == "rdp":
        return bound
    try:
        return min(bound, composed_epsilon(triples, delta, accountant))
    except PrivacyError:
        return bound
