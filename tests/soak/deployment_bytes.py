"""What this suite counts against what Flower counts.

`flwr ls` has the bytes that passed between SuperLink and SuperNodes: messages, their object trees,
and the objects themselves. Ours are those of frames and control fields. What is between them is a
constant for each message, since a message always has the same records; another one for each frame
beyond the first; and one for the question which partition a node holds, once a node.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OVERHEAD", "Overhead", "Traffic"]


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Bytes that Flower adds.

    Attributes
    ----------
    request, reply : float
        A train message, with one frame, and its answer.
    frame : float
        Each further frame of a request.
    query_down, query_up : float
        The question for the partition and its answer, once a node.
    """

    request: float
    reply: float
    frame: float
    query_down: float
    query_up: float


OVERHEAD = Overhead(request=1950.0, reply=1792.0, frame=455.0, query_down=667.0, query_up=800.0)
"""Measured with flwr 1.41, and stated in docs/guides/deployment.md."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One run's bytes, by both counts.

    Attributes
    ----------
    nodes, exchanges, frames : int
        SuperNodes that were asked for their partition; train messages, all of them answered, and
        the frames in them.
    uplink, downlink : int
        As summary.json has them, recovery among the downlink.
    inbound, outbound : int
        As `flwr ls` has them, seen from the SuperLink.
    """

    nodes: int
    exchanges: int
    frames: int
    uplink: int
    downlink: int
    inbound: int
    outbound: int

    def expected(self, overhead: Overhead = OVERHEAD) -> tuple[float, float]:
        """Inbound and outbound bytes from our counters and the overhead."""
        up = self.uplink + self.exchanges * overhead.reply + self.nodes * overhead.query_up
        more = (self.frames - self.exchanges) * overhead.frame
        requests = self.exchanges * overhead.request + more
        down = self.downlink + requests + self.nodes * overhead.query_down
        return up, down

    def deviations(self, overhead: Overhead = OVERHEAD) -> tuple[float, float]:
        """Relative deviation from what Flower counted, inbound and outbound."""
        up, down = self.expected(overhead)
        return up / self.inbound - 1.0, down / self.outbound - 1.0
