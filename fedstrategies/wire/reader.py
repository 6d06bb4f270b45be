"""Reading and writing the smallest parts of a blob: byte ranges and variable-length integers."""

from __future__ import annotations

from fedstrategies.wire.errors import WireError

__all__ = ["Reader", "check_padding", "varint"]

_VARINT_BYTES = 5


def varint(value: int) -> bytes:
    """``value`` in groups of seven bits, low group first, high bit set on all but the last.

    Raises
    ------
    ValueError
        If the value is negative or has more than 35 bits.
    """
    if not 0 <= value < 1 << (7 * _VARINT_BYTES):
        raise ValueError(f"{value} is outside 0 to 2**{7 * _VARINT_BYTES} - 1")
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


class Reader:
    """A cursor over a blob that refuses to read past its end.

    Parameters
    ----------
    blob : bytes
        What arrived.
    start, end : int
        The part of it that may be read.
    name : str
        What the blob is called in errors.
    """

    def __init__(self, blob: bytes, *, start: int, end: int, name: str) -> None:
        self.name = name
        self.position = start
        self._view = memoryview(blob)
        self._end = end

    @property
    def remaining(self) -> int:
        """Bytes left of the body."""
        return self._end - self.position

    def error(self, problem: str, *, at: int | None = None) -> WireError:
        """A `WireError` at the byte ``at``, by default the current one."""
        return WireError(self.name, self.position if at is None else at, problem)

    def take(self, size: int, what: str) -> memoryview:
        """The next ``size`` bytes.

        Raises
        ------
        WireError
            If fewer are left.
        """
        if size > self.remaining:
            raise self.error(f"{what} need {size} bytes, {self.remaining} are left")
        start, self.position = self.position, self.position + size
        return self._view[start : self.position]

    def varint(self, what: str) -> int:
        """The next `varint`, which must be the shortest of its value.

        Raises
        ------
        WireError
            If it is cut off, too long or padded.
        """
        start, value = self.position, 0
        for shift in range(0, 7 * _VARINT_BYTES, 7):
            group = self.take(1, what)[0]
            value |= (group & 0x7F) << shift
            if group < 0x80:
                if group == 0 and shift > 0:
                    raise self.error(f"{what} is padded with zeros", at=start)
                return value
        raise self.error(f"{what} is longer than {_VARINT_BYTES} bytes", at=start)

    def finish(self) -> None:
        """Check that nothing is left.

        Raises
        ------
        WireError
            If the body goes on.
        """
        if self.remaining:
            raise self.error(f"{self.remaining} bytes are left after the message")


def check_padding(reader: Reader, data: memoryview, used: int, what: str) -> None:
    """Check that the bits of the last byte after the first ``used`` of ``data`` are zero.

    Two blobs could otherwise mean the same message, and damage to the padding go unseen.

    Raises
    ------
    WireError
        If one is not.
    """
    if used & 7 and data[used >> 3] & (0xFF >> (used & 7)):
        raise reader.error(f"padding after the {what} is not zero", at=reader.position - 1)
