"""What the grids of this suite share: virtual clients that are there from the start, for good."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedstrategies.flower import BaseStrategy, CohortSession
from fedstrategies.flower.private import ensure_identity

__all__ = ["FIRST_NODE", "Fast", "VirtualGrid"]

logger = logging.getLogger("flwr")

FIRST_NODE = 1001
"""Node of partition 0; the others follow."""

Fast: TypeAlias = Literal["auto", "never", "require"]


class VirtualGrid(Grid):
    """Nodes that are known from the start, one a partition.

    Parameters
    ----------
    client_app : ClientApp
        What every node runs.
    partitions : sequence of int
        The partitions that have a node here, ascending.
    fast : {"auto", "never", "require"}
        Whether whole cohorts may run in one call in place of one message per client.

    Attributes
    ----------
    partitions : dict of int to int
        Partition of each node, which saves asking for it.

    Raises
    ------
    ValueError
        If there is no client, or ``fast`` is something else.
    """

    fixed_membership = True

    def __init__(self, client_app: ClientApp, partitions: Sequence[int], fast: Fast) -> None:
        if not partitions:
            raise ValueError("num_clients = 0: at least one client is needed")
        if fast not in ("auto", "never", "require"):
            raise ValueError(f"fast = {fast!r} is not 'auto', 'never' or 'require'")
        ensure_identity()
        self.app = client_app
        self.fast = fast
        self.partitions = {FIRST_NODE + partition: partition for partition in partitions}
        self._run: Run | None = None

    # ---------------------------------------------------------------- Grid

    def set_run(self, run: Run) -> None:
        """Remember the run (nothing here depends on it)."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run given to `set_run`, or an empty one."""
        return self._run if self._run is not None else Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message (Flower's older way)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in partition order."""
        return list(self.partitions)

    # ---------------------------------------------------------------- whole cohorts

    @abstractmethod
    def reason_against(self, strategy: BaseStrategy) -> str | None:
        """Why running without messages would skip something of the user's; None: it would not."""

    @abstractmethod
    def new_session(self, strategy: BaseStrategy) -> CohortSession:
        """The session, where there is no reason against it."""

    def open_cohort(self, strategy: BaseStrategy) -> CohortSession | None:
        """A session for the fast path, or None; the reason is logged.

        Raises
        ------
        ValueError
            If ``fast="require"`` and there is a reason against it.
        """
        reason = "fast='never'" if self.fast == "never" else self.reason_against(strategy)
        if reason is None:
            return self.new_session(strategy)
        if self.fast == "require":
            raise ValueError(f"the fast path is required but not possible: {reason}")
        logger.info("clients run one message each (no fast path): %s", reason)
        return None
