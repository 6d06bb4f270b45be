"""Answers of actors on this machine, in memory that both processes have mapped.

What an actor returns, Ray moves through its object store or inside the call: about 6 ms for a
megabyte, and as much again for the next actor's, which is as long as they take to compute it. A
*letterbox* is memory of the driver's that an actor writes its numbers into; only the stream that
says what they mean goes through Ray. It is a file without a name (memfd), which the actor opens by
way of the driver's entry in /proc. So nothing is left behind however the processes end, and where
there is no such entry (another machine, another operating system) answers travel as they did.
"""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import numpy as np

from fedstrategies.engines.parcel import Parcel, put_together, taken_apart

__all__ = ["Address", "Letter", "Letterbox", "Reply", "Writer"]

_LEAST, _MOST = 2**16, 2**30
"""Bytes of an answer below which a call carries it as well, and of the largest box."""

_LINE = 64
"""Numbers begin at multiples of this."""


@dataclass(frozen=True)
class Address:
    """Where a driver's letterbox is.

    Attributes
    ----------
    process, file : int
        The driver's process id, and the number of the file there.
    name : str
        The file's, by which it is known to be the one that is meant.
    size : int
        Bytes.
    """

    process: int
    file: int
    name: str
    size: int


@dataclass(frozen=True)
class Reply:
    """How an actor is to answer.

    Attributes
    ----------
    first : bool
        Whether the driver has read all that it was answered before.
    address : Address or None
        Where to; None: by way of Ray.
    """

    first: bool
    address: Address | None = None


@dataclass(frozen=True)
class Letter:
    """What is in a box.

    Attributes
    ----------
    stream : bytes
        The pickled content without its numbers.
    places : tuple of tuple of int
        Where they begin and end.
    """

    stream: bytes
    places: tuple[tuple[int, int], ...]


class Letterbox:
    """The driver's side: memory for the answers of one actor.

    It has none until large answers have come by other ways.
    """

    def __init__(self) -> None:
        self.address: Address | None = None
        """None: there is no room yet."""
        self._map: mmap.mmap | None = None
        self._wanted = 0
        self._close: Any = None

    def note(self, size: int) -> None:
        """An answer of so many bytes came by another way."""
        if size >= _LEAST and hasattr(os, "memfd_create"):
            here = 0 if self.address is None else self.address.size
            self._wanted = min(2 * max(size, here), _MOST)

    def make_room(self) -> None:
        """Become as large as was noted; what has not been read yet stays readable, and is apart."""
        if self._wanted <= (0 if self.address is None else self.address.size):
            return
        name = f"fedstrategies-{token_hex(8)}"
        file = os.memfd_create(name)
        os.ftruncate(file, self._wanted)
        if self._close is not None:
            self._close()
        self._close = weakref.finalize(self, os.close, file)
        self._map = mmap.mmap(file, self._wanted)
        self.address = Address(os.getpid(), file, name, self._wanted)

    def read(self, letter: Letter) -> Any:
        """The content; its numbers are the box's own until the actor writes again."""
        assert self._map is not None
        whole = memoryview(self._map)
        return put_together(letter.stream, [whole[first:last] for first, last in letter.places])


class Writer:
    """The actor's side."""

    def __init__(self) -> None:
        self._address: Address | None = None
        self._map: mmap.mmap | None = None
        self._used = 0

    def put(self, content: object, reply: Reply) -> Letter | Parcel[Any]:
        """Write ``content``, of a `Parcel`; a parcel if no box is here, or one with no room."""
        if reply.first:
            self._used = 0
        whole = self._mapped(reply.address)
        if whole is None:
            return Parcel(content)
        stream, numbers = taken_apart(content)
        places = []
        for number in numbers:
            raw = number.raw()
            end = self._used + raw.nbytes
            if end > len(whole):
                return Parcel(content)
            np.frombuffer(whole, np.uint8)[self._used : end] = np.frombuffer(raw, np.uint8)
            places.append((self._used, end))
            self._used = -(-end // _LINE) * _LINE
        return Letter(stream, tuple(places))

    def _mapped(self, address: Address | None) -> mmap.mmap | None:
        if address != self._address:
            self._address = address
            self._map = None if address is None else _opened(address)
        return self._map


def _opened(address: Address) -> mmap.mmap | None:
    """The file; None if this process cannot see it."""
    path = f"/proc/{address.process}/fd/{address.file}"
    try:
        # On another machine this may be any file, so it is not touched before its name is known.
        if not os.readlink(path).startswith(f"/memfd:{address.name}"):
            return None
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return mmap.mmap(file, address.size)
    finally:
        os.close(file)
