"""Bytes that travelled, summed over clients and rounds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ByteCounters"]


@dataclass
class ByteCounters:
    """Lengths of frames and control fields, in bytes.

    Attributes
    ----------
    uplink, downlink : int
        Replies and requests, whether or not they were used.
    recovery : int
        Memories sent to clients that lost theirs; not part of ``downlink``.
    """

    uplink: int = 0
    downlink: int = 0
    recovery: int = 0
