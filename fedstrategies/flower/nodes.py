"""Which node holds which partition.

Flower's node ids are random per run and listed as a set, so nothing reproducible can be keyed by
them. Partitions can: each node is asked once, and everything else (cohorts, random streams,
memories, the order of sums) is keyed by partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

__all__ = ["NodeDirectory", "query_partitions"]

logger = logging.getLogger("flwr")

_ROUNDS_BETWEEN_QUERIES = 16

PartitionQuery = Callable[[Grid, list[int]], dict[int, int | None]]


def query_partitions(grid: Grid, node_ids: list[int]) -> dict[int, int | None]:
    """Ask nodes for their ``partition-id``; None where a node answers but does not know.

    Nodes that do not answer within a minute are left out and asked again later. A grid that
    knows the answers (``partitions``: node id -> partition id) saves the question.
    """
    known: Mapping[int, int] | None = getattr(grid, "partitions", None)
    if known is not None:
        return {node: known[node] for node in node_ids}
    messages = [
        Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in node_ids
    ]
    found: dict[int, int | None] = {}
    for reply in grid.send_and_receive(messages, timeout=60.0):
        node = reply.metadata.src_node_id
        if reply.has_error():
            logger.warning("node %d does not answer queries: %s", node, reply.error.reason)
            found[node] = None
            continue
        values = [
            record["partition-id"]
            for record in reply.content.config_records.values()
            if isinstance(record.get("partition-id"), int)
        ]
        found[node] = int(values[0]) if values else None  # type: ignore[arg-type]
    return found


class NodeDirectory:
    """Partition index -> node id, kept up to date.

    Partition ids are mapped to 0..n-1 in ascending order when the run starts. A node that joins
    later may take over a known partition (its node was replaced), never add one: n is part of
    the method's constants.

    Parameters
    ----------
    query : callable
        How nodes are asked.
    """

    def __init__(self, query: PartitionQuery = query_partitions) -> None:
        self._query = query
        self._partition_of: dict[int, int] = {}
        self._index_of: dict[int, int] = {}
        self._node_of: dict[int, int] = {}
        self._ask_again: dict[int, int] = {}
        self._refreshes = 0

    def wait(self, grid: Grid, required: int) -> int:
        """Wait until ``required`` partitions are there, fix n, and return it.

        Raises
        ------
        ValueError
            If the grid's nodes are fixed and there are fewer.
        """
        while True:
            connected = sorted(grid.get_node_ids())
            if len(connected) >= required:
                self._learn(grid, [node for node in connected if node not in self._partition_of])
            present = {self._partition_of[n] for n in connected if n in self._partition_of}
            if len(present) >= required:
                break
            if getattr(grid, "fixed_membership", False):
                raise ValueError(
                    f"{required} nodes are required but this grid has {len(connected)}; lower "
                    "min_available_nodes and min_train_nodes, or give num_clients"
                )
            logger.info(
                "Waiting for nodes: %d connected, %d with a partition (minimum required: %d).",
                len(connected),
                len(present),
                required,
            )
            time.sleep(1)
        self._index_of = {partition: index for index, partition in enumerate(sorted(present))}
        self._place(connected)
        return len(self._index_of)

    def refresh(self, grid: Grid) -> dict[int, int]:
        """Partition index -> node id of the nodes connected now. Not to be changed."""
        self._refreshes += 1
        if getattr(grid, "fixed_membership", False) and len(self._node_of) == len(self._index_of):
            return self._node_of  # all there, for good: a round costs its cohort, not n
        connected = sorted(grid.get_node_ids())
        fresh = [
            node
            for node in connected
            if node not in self._partition_of and self._refreshes >= self._ask_again.get(node, 0)
        ]
        if fresh:
            self._learn(grid, fresh)
            self._place(fresh)
        alive = set(connected)
        return {index: node for index, node in self._node_of.items() if node in alive}

    def index_of(self, reply: Message) -> int:
        """Partition index of the node a reply came from; unknown nodes come last."""
        partition = self._partition_of.get(reply.metadata.src_node_id, -1)
        return self._index_of.get(partition, len(self._index_of))

    def _learn(self, grid: Grid, nodes: list[int]) -> None:
        answers = self._query(grid, nodes)
        for node in set(nodes) - set(answers):
            # Asking costs up to a minute: a silent node must not delay every round.
            self._ask_again[node] = self._refreshes + _ROUNDS_BETWEEN_QUERIES
        taken = set(self._partition_of.values()) | {p for p in answers.values() if p is not None}
        free = (rank for rank in range(len(taken) + len(nodes) + 1) if rank not in taken)
        for node in sorted(answers):
            partition = answers[node]
            if partition is None:
                partition = self._vacant() if self._index_of else next(free)
                logger.warning(
                    "node %d has no partition-id; it is taken for partition %d by order of "
                    "contact. Give nodes a partition-id to make runs reproducible.",
                    node,
                    partition,
                )
            self._partition_of[node] = partition

    def _vacant(self) -> int:
        """A known partition without a node, or one that does not exist."""
        held = {self._partition_of[node] for node in self._node_of.values()}
        vacant = sorted(set(self._index_of) - held)
        return vacant[0] if vacant else max(self._index_of, default=-1) + 1

    def _place(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            if node not in self._partition_of:
                continue
            index = self._index_of.get(self._partition_of[node])
            if index is None:
                logger.warning(
                    "node %d brings partition %d, which was not there when the run started; it "
                    "is not used, because n is fixed at the start",
                    node,
                    self._partition_of[node],
                )
                continue
            previous = self._node_of.get(index)
            if previous is not None and previous != node:
                logger.warning(
                    "partition %d: node %d takes over from node %d",
                    self._partition_of[node],
                    node,
                    previous,
                )
            self._node_of[index] = node
