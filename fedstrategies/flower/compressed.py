"""Any Flower strategy, with clients that compress their updates (`compression_mod`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedstrategies.flower.attempt import MOST_OUTAGES
from fedstrategies.flower.compressed_copies import Copies
from fedstrategies.flower.compressed_demands import Demands
from fedstrategies.flower.compressed_round import CompressedRound
from fedstrategies.flower.counters import ByteCounters
from fedstrategies.flower.errors import AllClientsFailed
from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["Compressed"]

logger = logging.getLogger("flwr")


class Compressed(Strategy):
    """A Flower strategy whose clients send compressed updates; the outermost wrapper.

    The strategy inside sees ordinary replies: x + g_i in place of what client i trained. It may be
    any of Flower's message API (FedAvg, FedAdam, Krum, ...), or a wrapper for differential privacy
    around one; server-side clipping then clips what was decoded. Clients have `CompressionMod` as
    the first of their mods, which chooses the operator.

    A reply counts by the rule of docs/reliability.md. One that is malformed, or not what the
    strategy inside asks for, reaches it as a reply with an error, which it treats as it does
    errors. Of a client whose reply is late, doubled, or says that its memory is lost it sees none.
    The server keeps g_i of every client that has a memory and was there lately: n d numbers.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        What aggregates.
    seed : int
        Of the operators' draws.
    forget_after : int
        Rounds without a connection after which g_i of a node is given up, at least 1. A node that
        comes back later starts from g_i = 0, as a new one does.

    Attributes
    ----------
    strategy : Strategy
        As given.
    bytes : ByteCounters
        Of train messages: arrays (Flower's own, or our frames), and control fields.
    failures : tuple of str
        What went wrong in the last round, one line per client.
    outermost : bool
        Set by `start`. A loop of your own that calls `configure_train` itself sets it first.

    Raises
    ------
    ValueError
        If ``strategy`` is one of this suite's (they compress by themselves), is compressed
        already, or is no strategy of the message API; or if ``forget_after`` is below 1.

    References
    ----------
    Richtarik, Sokolov, Fatkhullin, "EF21" (2021); Condat, Yi, Richtarik, "EF-BV" (2022).

    Examples
    --------
    After the example of `CompressionMod` (bytes are those of both clients and three rounds):

    >>> import numpy as np
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from fedstrategies import CohortGrid, Compressed
    >>> strategy = Compressed(FedAvg(fraction_evaluate=0.0))
    >>> grid, x0 = CohortGrid(app, num_clients=2), ArrayRecord([np.zeros(1000)])
    >>> result = strategy.start(grid, x0, num_rounds=3)
    >>> strategy.bytes.uplink, strategy.bytes.downlink
    (1322, 49086)
    """

    def __init__(self, strategy: Strategy, *, seed: int = 0, forget_after: int = 100) -> None:
        _require_sound(strategy)
        if forget_after < 1:
            raise ValueError(f"forget_after = {forget_after}: at least one round")
        self.strategy = strategy
        self.seed = seed
        self.forget_after = forget_after
        self._demands = Demands(_wrapped(strategy))
        self.bytes = ByteCounters()
        self.failures: tuple[str, ...] = ()
        self.outages = 0
        """Rounds in a row in which no client could be reached."""
        self.outermost = False
        self._copies = Copies()
        self._attempt: CompressedRound | None = None

    @property
    def memories(self) -> Mapping[int, Tensor]:
        """g_i by node id, shape (d,), of the clients that have a memory. Not to be changed."""
        return self._copies.memories

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Upstream's loop; its parameters.

        Raises
        ------
        AllClientsFailed
            If every client of a round failed by its own fault, or none could be reached in five
            rounds in a row. A round in which none could leaves the model as it is.
        """
        self.outermost = True
        return super().start(
            grid,
            initial_arrays,
            num_rounds,
            timeout,
            train_config,
            evaluate_config,
            evaluate_fn,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's messages, with control fields.

        Raises
        ------
        ValueError
            If this is not the outermost strategy, or a message has not exactly one model, of
            floating-point entries among others.
        """
        if not self.outermost:
            raise ValueError(
                "Compressed is not the outermost strategy: what is around it would read, clip or "
                "weigh compressed replies. Write Compressed(Wrapper(strategy)); a loop of your own "
                "that calls configure_train sets strategy.outermost = True"
            )
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        asked = [message.metadata.dst_node_id for message in messages]
        self._copies.forget_absent({*grid.get_node_ids(), *asked}, after=self.forget_after)
        self._attempt = CompressedRound(
            messages, self._copies, seed=self.seed, bytes=self.bytes, demands=self._demands
        )
        return self._attempt.requests

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode the replies that count, all before any of them is used, and let them aggregate.

        Raises
        ------
        AllClientsFailed
            If every client of the round failed by its own fault, or none could be reached in five
            rounds in a row.
        RuntimeError
            Without a `configure_train` before it.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            raise RuntimeError("aggregate_train without a configure_train before it")
        found = attempt.collect(replies)
        self.failures = tuple(attempt.failures)
        for line in self.failures:
            logger.warning("round %d: %s", server_round, line)
        first = attempt.hopeless
        if first is not None:
            raise AllClientsFailed(
                f"round {server_round}: all {len(attempt.requests)} clients failed; the first "
                f"said: {first}{_hint(first)}"
            )
        out_of_reach = attempt.outage
        self.outages = self.outages + 1 if out_of_reach else 0
        if self.outages >= MOST_OUTAGES:
            raise AllClientsFailed(
                f"round {server_round}: none of the {len(attempt.requests)} clients could be "
                f"reached in {MOST_OUTAGES} rounds in a row; the first error: {out_of_reach}"
            )
        attempt.commit()
        arrays, metrics = self.strategy.aggregate_train(server_round, found)
        return None if arrays is None else attempt.as_sent(arrays), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's; nothing is compressed."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The strategy's."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The strategy's, and that updates come compressed."""
        logger.info("\t├──> Updates of clients come compressed (fedstrategies)")
        self.strategy.summary()


def _wrapped(strategy: object) -> Iterator[Strategy]:
    """The strategy, what it wraps, and so on (Flower's wrappers call it ``strategy``)."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def _require_sound(strategy: object) -> None:
    if not isinstance(strategy, Strategy):
        raise ValueError(
            f"{strategy!r} is no flwr.serverapp.strategy.Strategy; strategies of Flower's older "
            "API have no node ids, by which memories are kept"
        )
    for one in _wrapped(strategy):
        name, outer = type(one).__name__, type(strategy).__name__
        if isinstance(one, BaseStrategy):
            raise ValueError(f"{name} sends compressed messages by itself; it is not to be wrapped")
        if isinstance(one, Compressed):
            raise ValueError(
                f"{outer} around Compressed would read compressed replies; write "
                f"Compressed({outer}(...))"
                if one is not strategy
                else "the strategy is Compressed already"
            )


def _hint(reason: str) -> str:
    """What to do about mods in the wrong order, which Flower's mods report in their own words."""
    if any(name in reason for name in ("fixedclipping_mod", "adaptiveclipping_mod", "LocalDpMod")):
        return (
            " (mods run from the last to the first on what clients return: CompressionMod is the "
            "first of them, so that it compresses what is clipped or noised already)"
        )
    return ""
