"""Which node holds which partition.

Flower's node ids are random per run and listed as a set, so nothing reproducible can be keyed by
them. Partitions can: each node is asked once, and everything else (cohorts, random streams,
memories, the order of sums) is keyed by partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Set

from flwr.app import Message
from flwr.serverapp import Grid

from fedstrategies.flower.partition_query import PartitionQuery, Remembered, query_partitions
from fedstrategies.flower.rank import RANK

__all__ = ["NodeDirectory"]

logger = logging.getLogger("flwr")

_ROUNDS_BETWEEN_QUERIES = 16


class NodeDirectory:
    """Partition index -> node id, kept up to date.

    Partition ids are mapped to 0..n-1 in ascending order when the run starts. A node that joins
    later may take over a known partition (its node was replaced), never add one: n is part of
    the method's constants.

    A node that was not told a partition gets a *rank*: the one it remembers if that is free, else
    the lowest free one, in the order of contact and by node id among those met at once. Once the
    run has started, free are the partitions whose node is gone.

    Parameters
    ----------
    query : callable
        How nodes are asked.
    """

    def __init__(self, query: PartitionQuery = query_partitions) -> None:
        self._query = query
        self._partition_of: dict[int, int] = {}
        self._ranked: set[int] = set()
        self._rankless: dict[int, Remembered | None] = {}
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
                self._ask(grid, self._unknown(connected))
                self._rank(set(connected))
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
        alive = set(connected)
        fresh = [
            node
            for node in self._unknown(connected)
            if self._refreshes >= self._ask_again.get(node, 0)
        ]
        if fresh:
            self._ask(grid, fresh)
            self._place(fresh)
        if not alive.isdisjoint(self._rankless):
            self._place(self._rank(alive))
        return {index: node for index, node in self._node_of.items() if node in alive}

    def index_of(self, reply: Message) -> int:
        """Partition index of the node a reply came from; unknown nodes come last."""
        partition = self._partition_of.get(reply.metadata.src_node_id, -1)
        return self._index_of.get(partition, len(self._index_of))

    def rank_field(self, node: int) -> dict[str, int]:
        """What a request to a node says of its rank: nothing if it knows its partition."""
        return {RANK: self._partition_of[node]} if node in self._ranked else {}

    def snapshot(self) -> dict[int, int]:
        """Node id -> rank, for a checkpoint."""
        return {node: self._partition_of[node] for node in sorted(self._ranked)}

    def resume(self, kept: Mapping[int, int]) -> None:
        """Give nodes the ranks back that `snapshot` has of them; `wait` was called.

        Others keep theirs where it is free, else they take what is left.
        """
        before = {node: self._partition_of.pop(node) for node in sorted(self._ranked)}
        free = set(before.values())
        for ranks in (kept, before):
            for node in before:
                if node not in self._partition_of and ranks.get(node) in free:
                    self._partition_of[node] = ranks[node]
                    free.remove(ranks[node])
        for node in before:
            if node not in self._partition_of:
                self._partition_of[node] = min(free)
                free.remove(min(free))
            self._node_of[self._index_of[self._partition_of[node]]] = node

    def _unknown(self, connected: Iterable[int]) -> list[int]:
        """Nodes that have not answered yet."""
        known = self._partition_of.keys() | self._rankless.keys()
        return [node for node in connected if node not in known]

    def _ask(self, grid: Grid, nodes: list[int]) -> None:
        answers = self._query(grid, nodes)
        for node in set(nodes) - set(answers):
            # Asking may take minutes: a silent node must not delay every round.
            self._ask_again[node] = self._refreshes + _ROUNDS_BETWEEN_QUERIES
        for node, found in answers.items():
            if isinstance(found, int):
                self._partition_of[node] = found
            else:
                self._rankless[node] = found

    def _rank(self, alive: Set[int]) -> list[int]:
        """Give ranks to nodes that were not told a partition; those that got one."""
        if not self._index_of:  # nothing has been sent yet: who left again needs no rank
            for node in self._ranked - alive:
                self._rankless[node] = Remembered(self._partition_of.pop(node), here=True)
            self._ranked &= alive
        free = self._free(alive)
        ranked = []
        first = sorted(self._rankless.items(), key=lambda item: (item[1] is None, item[0]))
        for node, wanted in first:
            if node not in alive:
                continue
            if wanted is not None and (wanted.rank in free or self._is_left_behind(wanted)):
                rank, why = wanted.rank, "which it had before"
                self._displace(rank)
            elif free:
                rank, why = min(free), "by order of contact"
            else:
                logger.debug("node %d has no partition-id, and all partitions have nodes", node)
                continue
            logger.warning(
                "node %d has no partition-id; it is taken for partition %d, %s. Give nodes a "
                "partition-id to make runs reproducible.",
                node,
                rank,
                why,
            )
            free.discard(rank)
            self._partition_of[node] = rank
            self._ranked.add(node)
            ranked.append(node)
        for node in ranked:
            del self._rankless[node]
        return ranked

    def _free(self, alive: Set[int]) -> set[int]:
        """Ranks to be had: of n, or once n is fixed those whose node is gone."""
        if self._index_of:
            return {p for p, i in self._index_of.items() if self._node_of.get(i) not in alive}
        held = set(self._partition_of.values())
        waiting = len(alive & self._rankless.keys())
        return set(range(len(held) + waiting)) - held

    def _is_left_behind(self, wanted: Remembered) -> bool:
        """Whether a rank's node may be the asker's own former self, which still seems alive.

        A SuperNode that was killed counts as connected for a minute; its successor knows better.
        """
        index = self._index_of.get(wanted.rank) if wanted.here else None
        return index is not None and self._node_of.get(index) in self._ranked

    def _displace(self, rank: int) -> None:
        """Who had a rank waits for another; it may be alive after all."""
        previous = self._node_of.get(self._index_of.get(rank, -1))
        if previous in self._ranked:
            self._ranked.remove(previous)
            del self._partition_of[previous]
            self._rankless[previous] = None

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
