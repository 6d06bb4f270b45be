"""RayGrid: virtual clients in Ray actors, each of which is a CohortGrid of some partitions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedstrategies.engines.eligibility import overridden, reason_in_shell
from fedstrategies.engines.packing import pack
from fedstrategies.engines.shares import shares_of
from fedstrategies.engines.virtual_grid import Fast, VirtualGrid
from fedstrategies.extras import install_hint
from fedstrategies.flower import BaseStrategy, CohortSession
from fedstrategies.flower.private import identify

if TYPE_CHECKING:
    from fedstrategies.engines.ray_answer import Answer
    from fedstrategies.engines.ray_shard import Shard

__all__ = ["RayGrid"]

logger = logging.getLogger("flwr")

_GRID_METHODS = ("send_and_receive", "push_messages", "pull_messages")
_LARGE_APP = 1_000_000


class RayGrid(VirtualGrid):
    """Grid of ``num_clients`` virtual clients in Ray actors, on one machine or a cluster.

    Every actor owns a range of partitions, with their data, their state and their memories, for
    as long as it lives; what travels are models and messages. Results are those of `CohortGrid`,
    bit for bit, whatever the number of actors.

    Parameters
    ----------
    client_app : ClientApp
        What every node runs; from `fedstrategies.client_app` for the fast path. It is pickled
        once for each actor: let ``client_fn`` load the data, not hold them.
    num_clients : int
        n; node i holds partition i.
    actors : int or None
        Processes; None: as many as Ray has room for.
    cpus_per_client, gpus_per_client : float or sequence of float
        What a client takes of a machine while it works: one number for all, or one for each.
        Clients of equal shares have actors of their own, which reserve as much as their clients
        take that work at a time (see `fedstrategies.engines.packing`).
    address : str or None
        A running Ray cluster, ``"auto"`` for that of this machine; None: Ray as this process
        is connected to it, or else started here with one CPU a core.
    fast : {"auto", "never", "require"}
        Whether whole cohorts may run in one call an actor in place of one message a client.
        ``"require"`` raises with the reason where they may not.
    run_config : mapping or None
        The clients' ``context.run_config``.

    Raises
    ------
    ImportError
        If Ray is not installed.
    ValueError
        If an argument is out of range, or Ray has not room for the actors.

    Examples
    --------
    After the example of `EFBVClient`, with each client in a process of its own:

    >>> from fedstrategies import RayGrid
    >>> strategy = EF21(compressor=TopK(k=1), stepsize=0.5)
    >>> with RayGrid(app, num_clients=2, actors=2) as grid:
    ...     result = strategy.start(grid, x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.3381, -0.1250,  0.1250,  0.4575], dtype=torch.float64)
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        num_clients: int,
        actors: int | None = None,
        cpus_per_client: float | Sequence[float] = 1.0,
        gpus_per_client: float | Sequence[float] = 0.0,
        address: str | None = None,
        fast: Fast = "auto",
        run_config: Mapping[str, bool | float | int | str] | None = None,
    ) -> None:
        super().__init__(client_app, range(num_clients), fast)
        if actors is not None and actors < 1:
            raise ValueError(f"actors = {actors}: at least one is needed")
        try:
            import ray
        except ImportError:
            raise ImportError(f"RayGrid needs Ray; {install_hint('simulation')}") from None
        from fedstrategies.engines.ray_cluster import INLINED, connect, machines, start

        pickled: Callable[[object], bytes] = ray.cloudpickle.dumps
        app = pickled(client_app)
        if len(app) > _LARGE_APP:
            logger.warning(
                "the pickled ClientApp has %.1f MB: its client_fn holds data, which every actor "
                "is sent a copy of; let it load them where it runs",
                len(app) / 1e6,
            )
        self._owns_ray = connect(address)
        self._limits = {"inlined": INLINED} if self._owns_ray and address is None else {}
        self._lock = Lock()
        self._batches: list[tuple[list[str], Answer]] = []
        self._replies: dict[str, Message] = {}
        self.shards: list[Shard] = []
        """The actors, with what each of them owns."""
        try:
            shares = shares_of(num_clients, cpus=cpus_per_client, gpus=gpus_per_client)
            self.plan = pack(shares, machines(), actors=actors)
            """Which actors there are, what they reserve, and what is left idle."""
            for line in self.plan.warnings:
                logger.warning("%s", line)
            self.shards += start(app, self.plan, clients=num_clients, run_config=run_config or {})
        except BaseException:
            self.close()
            raise
        self._owner = {
            partition: place
            for place, shard in enumerate(self.shards)
            for partition in shard.partitions.tolist()
        }

    def close(self) -> None:
        """End the actors, and Ray if it was started here; messages on their way are lost.

        Whatever is asked of the grid afterwards raises RuntimeError.
        """
        import ray

        for shard in self.shards:
            shard.close()
        with self._lock:
            self._batches, self._replies = [], {}
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- Grid

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Give each message to the actor that owns its node; returns at once."""
        from fedstrategies.engines.parcel import Parcel

        ids, batches = [], dict[int, list[Message]]()
        for message in messages:
            ids.append(identify(message))
            owner = self._owner[self.partitions[message.metadata.dst_node_id]]
            batches.setdefault(owner, []).append(message)
        with self._lock:
            for owner, batch in sorted(batches.items()):
                about = [self.partitions[message.metadata.dst_node_id] for message in batch]
                answer = self.shards[owner].ask("execute", Parcel(batch), about=about)
                self._batches.append(([m.metadata.message_id for m in batch], answer))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to ``message_ids`` that are there; each is handed out once.

        Raises
        ------
        RuntimeError
            If the same messages ended two actors.
        """
        with self._lock:
            self._collect()
            return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def _collect(self) -> None:
        """Take in what was answered, without waiting; whoever calls holds the lock."""
        for entry in list(self._batches):
            keys, answer = entry
            try:
                there = answer.poll()
            except BaseException:
                self._batches.remove(entry)
                raise
            if there:
                self._batches.remove(entry)
                for key, reply in zip(keys, answer.get().content, strict=True):
                    identify(reply)
                    self._replies[key] = reply
                answer.shard.died = False

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and return the replies that come within ``timeout`` seconds.

        Where an actor dies over them, its successor gets them once more, within the same time.
        Replies that come later are dropped.

        Raises
        ------
        RuntimeError
            If the same messages ended two actors.
        """
        from fedstrategies.engines.ray_answer import wait_for_any

        ids = list(self.push_messages(messages))
        waited, deadline = set(ids), None if timeout is None else monotonic() + timeout
        try:
            while True:
                with self._lock:
                    self._collect()
                    owing = [a for keys, a in self._batches if not waited.isdisjoint(keys)]
                left = None if deadline is None else deadline - monotonic()
                if not owing or (left is not None and left <= 0):
                    return self.pull_messages(ids)
                wait_for_any(owing, left)
        finally:
            with self._lock:
                self._batches = [b for b in self._batches if waited.isdisjoint(b[0])]
                for key in waited.intersection(self._replies):
                    del self._replies[key]

    # ---------------------------------------------------------------- whole cohorts

    @property
    def repeats_releases(self) -> bool:
        """See `CohortGrid.repeats_releases`; the first actor answers for all."""
        with self._lock:
            return bool(self.shards[0].ask("repeats_releases").get())

    def reason_against(self, strategy: BaseStrategy) -> str | None:
        """Why running without messages would skip something of the user's; None: it would not."""
        from fedstrategies.engines.ray_session import reason_in_shards

        reason = reason_in_shell(self.app, strategy)
        if reason is None and (changed := overridden(type(self), RayGrid, _GRID_METHODS)):
            reason = f"the grid overrides {changed}"
        return reason_in_shards(self.shards, strategy) if reason is None else reason

    def new_session(self, strategy: BaseStrategy) -> CohortSession:
        """The session, where there is no reason against it."""
        from fedstrategies.engines.ray_session import RaySession

        return RaySession(self.shards, strategy, **self._limits)
