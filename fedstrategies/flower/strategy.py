"""The server half of the shell: a Flower Strategy that keeps its promises under faults.

Everything correctness needs lives in `configure_train` and `aggregate_train`, so upstream's own
``start()``, wrappers and grids drive it as well as ours. A room adds the mathematics: constants
(`prepare`), what each client is asked (`plan`), and the update (`server_update`); see `hooks`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedstrategies.flower.accounts import Accounts
from fedstrategies.flower.attempt import Attempt
from fedstrategies.flower.batched_round import BatchedRound
from fedstrategies.flower.broadcast import Broadcast
from fedstrategies.flower.callbacks import Callback
from fedstrategies.flower.checkpointing import Checkpointing
from fedstrategies.flower.contract import Delivery
from fedstrategies.flower.counters import ByteCounters
from fedstrategies.flower.errors import Diverged
from fedstrategies.flower.evaluation import evaluation_messages, evaluation_metrics
from fedstrategies.flower.hooks import MethodHooks
from fedstrategies.flower.ledger import SPENT, Ledger
from fedstrategies.flower.loop import drive
from fedstrategies.flower.message_round import MessageRound
from fedstrategies.flower.metrics import aggregate_metrics
from fedstrategies.flower.nodes import NodeDirectory
from fedstrategies.flower.precision import require_numbers
from fedstrategies.flower.records import tensor_of, to_arrays
from fedstrategies.flower.settings import StrategySettings
from fedstrategies.layout import Layout
from fedstrategies.privacy import BudgetSpent

__all__ = ["BaseStrategy"]

logger = logging.getLogger("flwr")


class BaseStrategy(StrategySettings, MethodHooks, Strategy):
    """Base of this suite's strategies.

    Parameters
    ----------
    **settings
        See `StrategySettings`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.bytes = ByteCounters()
        self.nodes = NodeDirectory()
        self.round = 0
        """Communication rounds completed."""
        self.has_state = False
        """Whether a round made state of the room's own follow."""
        self.gamma = 0.0
        """Step size in use; set by `prepare`."""
        self.downlink_scale = 1.0
        """Factor of the downlink's differences that makes them a contraction; set by `prepare`."""
        self.broadcast: Broadcast | None = None
        """What clients know of the model where the downlink is compressed; None: it is not."""
        self.participants = 0
        self.failures: tuple[str, ...] = ()
        """What went wrong in the last attempt, one line per client."""
        self.outages = 0
        """Attempts in a row in which no client could be reached."""
        self.memory: Mapping[str, Tensor] | None = None
        """The server's copy of the clients' effective memories, (n, d) each; None: reset rule."""
        self.accounts = Accounts()
        """What the clients have spent of their privacy; of n clients once the first round begins.

        May be replaced before that by those of an earlier run with the same clients."""
        self.evaluating: set[int] = set()
        """Nodes whose evaluation is awaited."""
        self._told_of_noise = False
        self._attempt: Attempt | None = None
        self._x: Tensor | None = None
        self._arrays: ArrayRecord | None = None

    # ---------------------------------------------------------------- state others may read

    @property
    def clients(self) -> int:
        """n, fixed when the first round begins."""
        if self.num_clients is None:
            raise RuntimeError("the number of clients is known once the first round begins")
        return self.num_clients

    @property
    def x(self) -> Tensor:
        """The current model, shape (d,)."""
        if self._x is None:
            raise RuntimeError("there is no model before the first round")
        return self._x

    @property
    def arrays(self) -> ArrayRecord:
        """The current model under the user's names; loads with ``strict=True``."""
        if self._arrays is None:
            self._arrays = to_arrays(self.layout.unflatten(self.x), self._initial)
        return self._arrays

    @property
    def carried(self) -> Mapping[str, Array]:
        """Entries of the user's model that are not trained, as they were given."""
        trained = set(self.layout.names)
        return {name: array for name, array in self._initial.items() if name not in trained}

    def cohort(self, round: int) -> Tensor:
        """Partition indices of a round's cohort: int64, ascending."""
        return self.sampling_of(self.clients).draw(self.clients, seed=self.seed, round=round)

    @property
    def outer_round(self) -> int:
        """Cohorts done with; the rounds themselves unless the room says otherwise."""
        return self.round

    @property
    def cohort_size(self) -> int:
        """m."""
        return self.sampling_of(self.clients).size(self.clients)

    # ---------------------------------------------------------------- set-up

    def set_up(self, arrays: ArrayRecord, grid: Grid) -> None:
        """Wait for the nodes, fix n and d, and let the room prepare; idempotent."""
        if self._x is not None:
            return
        required = self.num_clients or max(self.min_available_nodes, self.min_train_nodes)
        found = self.nodes.wait(grid, required)
        if self.num_clients is not None and found != self.num_clients:
            raise ValueError(
                f"num_clients = {self.num_clients}, but the nodes hold {found} partitions"
            )
        self.num_clients = found
        named = {name: tensor_of(array) for name, array in arrays.items()}
        self.layout = Layout.of_arrays(named, trainable=self.trainable)
        require_numbers(self.layout)
        self._initial = arrays
        x = self.layout.flatten(named)
        self.ledger = Ledger(found, patient=self.on_failure != "redo")
        self.accounts = self.accounts.sized(found)
        self.prepare(x)
        if self.downlink is not None:
            self.broadcast = Broadcast(
                self.downlink, clients=found, seed=self.seed, scale=self.downlink_scale
            )
        self._x = x
        self._make_memory()

    def take_model(self, arrays: ArrayRecord) -> None:
        """Go on from ``arrays``: the user, or a wrapper that adds noise, may have changed them."""
        if arrays is not self._arrays:
            named = {name: tensor_of(array) for name, array in arrays.items()}
            self._x, self._arrays = self.layout.flatten(named), None

    def adopt(
        self,
        *,
        x: Tensor,
        memory: Mapping[str, Tensor] | None,
        round: int,
        method: Mapping[str, Any],
    ) -> None:
        """Go on from the state of an earlier process; see `resumption`."""
        self._x, self._arrays = x, None
        self.memory, self.round = memory, round
        self.set_method_state(method)

    def restored(self) -> None:
        """Clients have what the server knows of them; nobody needs to be sent it again."""
        self.ledger.restored()
        if self.broadcast is not None:
            self.broadcast.restored()

    def _make_memory(self) -> None:
        rule = self.plan(1)[0].rule
        x = self.x
        one = rule.initial_memory(1, len(x), x.dtype, torch.device("cpu"))
        needed = self.clients * sum(value.numel() * value.element_size() for value in one.values())
        if needed > self.memory_budget:
            logger.info(
                "client memories: %.1f GiB exceed the budget; a lost one resets all", needed / 2**30
            )
            return
        self.memory = rule.initial_memory(self.clients, len(x), x.dtype, torch.device("cpu"))

    # ---------------------------------------------------------------- Strategy

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open an attempt at the next communication round."""
        self.set_up(arrays, grid)
        self.take_model(arrays)
        attempt = MessageRound(self, self.round + 1)
        self._attempt = attempt
        return attempt.messages(self.nodes.refresh(grid), config, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Use the replies that count, all at once, or none if the round must be redone.

        Raises
        ------
        AllClientsFailed
            If every client of the cohort failed.
        BudgetSpent
            If a client's privacy budget is spent and rounds are redone without it.
        Diverged
            If the model is not finite any more.
        """
        attempt = self._attempt
        if not isinstance(attempt, MessageRound):
            raise RuntimeError("aggregate_train without a configure_train before it")
        self._attempt = None
        deliveries = attempt.collect(replies)
        if not self.commit(attempt, deliveries):
            return None, None
        metrics = aggregate_metrics(
            attempt.contents, self.train_metrics_aggr_fn, self.weighted_by_key
        )
        return self.arrays, metrics

    def commit(self, attempt: Attempt, deliveries: Sequence[Delivery]) -> bool:
        """The one point where a round changes anything; False: nothing did, redo the round."""
        self.failures = tuple(attempt.failures)
        for line in attempt.failures:
            logger.warning("round %d: %s", attempt.round, line)
        if not self._told_of_noise and self.accounts.noisy:
            self._told_of_noise = True
            self.note_noise()
        attempt.raise_if_hopeless()
        if attempt.spent and self.on_failure == "redo":
            # Asking again would charge all others, and come to nothing.
            raise BudgetSpent(
                f"round {attempt.round}: partition {min(attempt.spent)}: {SPENT}; rounds need "
                "every client (on_failure = 'redo')"
            )
        if attempt.must_reset:
            self._reset()
            return False
        if not self.attempts_are_rounds and (
            not deliveries or (attempt.failures and self.on_failure == "redo")
        ):
            return False
        update = self.server_update(self.x, deliveries)
        if not bool(torch.isfinite(update.x).all()):
            raise Diverged(attempt.round, "the model is not finite")
        update.follow()
        self.has_state = self.has_state or update.moves_state
        settlement = update.x if update.settlement is None else update.settlement
        if self.memory is not None:
            for delivery in deliveries:
                whole = len(delivery.partition_ids) == self.clients
                delivery.assignment.rule.commit_(
                    self.memory,
                    delivery.payload,
                    clients=None if whole else delivery.partition_ids,
                    settlement=settlement,
                )
        attempt.settle(settlement)
        if self.broadcast is not None and attempt.edition is not None:
            self.broadcast.follow(attempt.edition)
        self._x, self._arrays = update.x, None
        self.round = attempt.round
        self.participants = sum(len(delivery.partition_ids) for delivery in deliveries)
        return True

    def _reset(self) -> None:
        logger.warning("a client's memory is lost and there is no copy: all memories start anew")
        self.ledger.reset()
        self.forget()

    def advance(self, attempt: BatchedRound) -> MetricRecord | None:
        """One communication round of the in-process fast path."""
        deliveries = attempt.step()
        return attempt.metrics() if self.commit(attempt, deliveries) and deliveries else None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask a (seeded) sample of the nodes to evaluate the model."""
        return evaluation_messages(self, server_round, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the metrics in partition order; failed replies are named and left out."""
        return evaluation_metrics(self, replies)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoints: str | Path | None = None,
        checkpoint_every: int = 0,
        resume: str | Path | None = None,
    ) -> Result:
        """Run ``num_rounds`` communication rounds; upstream's signature, callbacks, checkpoints.

        Parameters
        ----------
        grid : Grid
            Flower's, or `CohortGrid`, on which whole cohorts run in one call where nothing of
            the user's would be skipped.
        initial_arrays : ArrayRecord
            x^0 under the user's names.
        num_rounds : int
            T. A redone attempt does not count. With ``resume`` those before the checkpoint do.
        timeout : float
            Seconds to wait for the replies of an attempt.
        train_config, evaluate_config : ConfigRecord or None
            Sent along with every message.
        evaluate_fn : callable or None
            (round, arrays) -> metrics, before the first and after each round.
        callbacks : sequence of Callback
            See `fedstrategies.flower.Callback`.
        checkpoints : path or None
            Folder for checkpoints; None: none are written.
        checkpoint_every : int
            R >= 1: one is written after each R rounds, and after the last one; the callbacks have
            been told of the round before.
        resume : path or None
            A checkpoint, or a folder of them, of which the newest that can be read is taken. The
            strategy must be built as it was then; the result has the metrics of the rounds since.

        Raises
        ------
        AllClientsFailed, BudgetSpent, Diverged
            As `aggregate_train`.
        fedstrategies.checkpoint.CheckpointError
            If there is no checkpoint that can be read, or it is not one of this run.
        ValueError
            If ``checkpoints`` is given without ``checkpoint_every``, or the reverse.
        OSError
            If a checkpoint cannot be written; the run ends.
        """
        return drive(
            self,
            grid,
            initial_arrays,
            num_rounds=num_rounds,
            timeout=timeout,
            train_config=train_config or ConfigRecord(),
            evaluate_config=evaluate_config or ConfigRecord(),
            evaluate_fn=evaluate_fn,
            callbacks=callbacks,
            checkpointing=Checkpointing.of(checkpoints, every=checkpoint_every, resume=resume),
        )
