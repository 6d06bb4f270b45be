"""The model as a client knows it, where the server sends compressed differences of it.

Versions of that model are numbered by the server and never made twice. A request names a path of
versions and brings the difference of each step, or the newest version whole; the checksum of the
newest one has the last word, so that no client computes at any other model.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.flower.errors import ProtocolError
from fedstrategies.wire import decode, decode_vector

__all__ = ["MOST_STEPS", "Replica", "Route", "checksum", "rebuild"]

MOST_STEPS = 255
"""Steps a path can have."""

_ROUTE = struct.Struct("<BdIB")
_NUMBER = struct.Struct("<I")


def checksum(model: Tensor) -> int:
    """CRC-32 of a model's numbers, shape (d,)."""
    return zlib.crc32(model.detach().cpu().contiguous().view(torch.uint8).numpy().data)


@dataclass(frozen=True, kw_only=True)
class Route:
    """Control fields beside the frames of a compressed downlink.

    Attributes
    ----------
    numbers : tuple of int
        Versions of the path in order: the oldest that it starts from to the one to compute at.
    checksum : int
        Of the last one, see `checksum`.
    scale : float
        Factor of the differences.
    whole : bool
        Whether the last version comes as one dense frame; otherwise one difference a step.
    """

    numbers: tuple[int, ...]
    checksum: int
    scale: float
    whole: bool = False

    @property
    def frames(self) -> int:
        """Frames that travel beside these fields."""
        return 1 if self.whole else len(self.numbers) - 1

    @staticmethod
    def size(steps: int) -> int:
        """Bytes of the fields of a path of ``steps`` differences (a whole version: 0)."""
        return _ROUTE.size + (steps + 1) * _NUMBER.size

    def to_bytes(self) -> bytes:
        """Pack into `size` bytes."""
        head = _ROUTE.pack(self.whole, self.scale, self.checksum, len(self.numbers) - 1)
        return head + b"".join(map(_NUMBER.pack, self.numbers))

    @classmethod
    def from_bytes(cls, data: bytes) -> Route:
        """Unpack; `ProtocolError` if the length or a field is not what it must be."""
        if len(data) < _ROUTE.size:
            raise ProtocolError(f"downlink: {len(data)} bytes, expected at least {_ROUTE.size}")
        whole, scale, found, steps = _ROUTE.unpack_from(data)
        if len(data) != cls.size(steps) or whole > 1 or (whole and steps):
            raise ProtocolError(f"downlink: {len(data)} bytes do not fit their own counts")
        numbers = tuple(number for (number,) in _NUMBER.iter_unpack(data[_ROUTE.size :]))
        return cls(numbers=numbers, checksum=found, scale=scale, whole=bool(whole))


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A version of the model that a client holds.

    Attributes
    ----------
    session : int
        Of the server that numbered it; another server's numbers mean nothing.
    number : int
        Which version.
    w : Tensor
        The model, shape (d,).
    """

    session: int
    number: int
    w: Tensor


def rebuild(
    held: Replica | None, route: Route, frames: Sequence[bytes], *, session: int, dimension: int
) -> Replica | None:
    """The version that a request wants computed at; None if it cannot be had from ``held``.

    A client may stand anywhere on the path: it applies the steps that it has not taken,
    ``w <- w + scale * C(x - w)``, and the result must have the checksum.

    Parameters
    ----------
    held : Replica or None
        What the client holds; its ``w`` is left as it is.
    route : Route
        The path.
    frames : sequence of bytes
        One a step, or the whole version.
    session : int
        Of the server that asks.
    dimension : int
        d.

    Raises
    ------
    ValueError
        If a frame is broken, or a whole version is not the one that was announced.
    """
    target = route.numbers[-1]
    if route.whole:
        w = decode_vector(frames[0], dimension=dimension, name="model")
        if checksum(w) != route.checksum:
            raise ProtocolError(f"downlink: version {target} of the model has another checksum")
        return Replica(session=session, number=target, w=w)
    if held is None or held.session != session or held.number not in route.numbers:
        return None
    done = route.numbers.index(held.number)
    w = held.w.clone()
    for number, frame in zip(route.numbers[done + 1 :], frames[done:], strict=True):
        step = decode(frame, dimension=dimension, name=f"step to version {number} of the model")
        step.add_to_(w.unsqueeze(0), route.scale)
    if checksum(w) != route.checksum:
        return None
    return Replica(session=session, number=target, w=w)
