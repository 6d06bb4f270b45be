"""Asking nodes which partition they hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedstrategies.flower.private import client_raised
from fedstrategies.flower.rank import RANK, RANK_OF_THIS_RUN

__all__ = ["PartitionQuery", "Remembered", "query_partitions"]

logger = logging.getLogger("flwr")

_PATIENCE = 600.0
"""Seconds for an answer. Long, since a node that works on its answers one by one never catches up
with those who give it up and ask again; a node that is gone is reported so within a minute."""


@dataclass(frozen=True)
class Remembered:
    """The answer of a node that was not told a partition, but had a rank before.

    Attributes
    ----------
    rank : int
        Which.
    here : bool
        Whether it had it in this run.
    """

    rank: int
    here: bool = False


PartitionQuery = Callable[[Grid, list[int]], Mapping[int, int | Remembered | None]]


def query_partitions(grid: Grid, node_ids: list[int]) -> dict[int, int | Remembered | None]:
    """Ask nodes for their ``partition-id``; None where a node answers but does not know.

    Nodes that do not answer within ten minutes, or are gone, are left out and asked again later. A
    grid that knows the answers (``partitions``: node id -> partition id) saves the question.
    """
    known: Mapping[int, int] | None = getattr(grid, "partitions", None)
    if known is not None:
        return {node: known[node] for node in node_ids}
    messages = [
        Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in node_ids
    ]
    found: dict[int, int | Remembered | None] = {}
    for reply in grid.send_and_receive(messages, timeout=_PATIENCE):
        node = reply.metadata.src_node_id
        if reply.has_error():
            logger.warning("node %d does not answer queries: %s", node, reply.error.reason)
            if client_raised(reply):  # an app without a query handler; others may be gone
                found[node] = None
            continue
        told = _integer(reply.content, "partition-id")
        rank = _integer(reply.content, RANK)
        here = bool(_integer(reply.content, RANK_OF_THIS_RUN))
        found[node] = Remembered(rank, here) if told is None and rank is not None else told
    return found


def _integer(content: RecordDict, key: str) -> int | None:
    """What the first record that has it says under a key."""
    for record in content.config_records.values():
        value = record.get(key)
        if isinstance(value, int):
            return int(value)
    return None
