"""The round loop behind ``start()``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fedstrategies.flower.batched_round import BatchedRound
from fedstrategies.flower.callbacks import Callback, ResumableCallback, RoundRecord
from fedstrategies.flower.checkpointing import Checkpointing
from fedstrategies.flower.request_log import RequestLog
from fedstrategies.flower.sessions import BatchingGrid, CohortSession

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["drive"]

logger = logging.getLogger("flwr")

_MOST_ATTEMPTS = 100


def drive(
    strategy: BaseStrategy,
    grid: Grid,
    initial_arrays: ArrayRecord,
    *,
    num_rounds: int,
    timeout: float,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord,
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    callbacks: Sequence[Callback],
    checkpointing: Checkpointing,
) -> Result:
    """Run rounds until ``num_rounds`` are completed or a callback stops the run.

    A run that goes on from a checkpoint counts the rounds before it.

    The session is closed and every callback ended, whatever is raised on the way. The first error
    is raised; those that come of the closing after another are logged.
    """
    strategy.set_up(initial_arrays, grid)
    strategy.take_model(initial_arrays)
    resumes, result, arrays = checkpointing.source is not None, Result(), initial_arrays
    first, stopped = 0 if resumes else strategy.round, False
    if resumes:
        stopped = checkpointing.resume(strategy, callbacks, grid, num_rounds=num_rounds)
        arrays = strategy.arrays
    else:
        checkpointing.charge_requests(strategy, grid)
    requests = checkpointing.requests_on(strategy, grid)
    strategy.summary()
    strategy.begin(first + num_rounds - strategy.round)
    session = grid.open_cohort(strategy) if isinstance(grid, BatchingGrid) else None
    if session is not None:
        strategy.restored()
    try:
        for callback in callbacks:
            if not (resumes and isinstance(callback, ResumableCallback)):
                callback.on_start(strategy.x)
        measure_start = None if resumes else evaluate_fn
        if measure_start is not None and (found := measure_start(0, initial_arrays)) is not None:
            result.evaluate_metrics_serverapp[0] = found
        while strategy.round < first + num_rounds and not stopped:
            metrics = _complete_round(
                strategy, grid, session, requests, arrays, train_config, timeout
            )
            current = strategy.round - first
            if metrics is not None:
                result.train_metrics_clientapp[current] = metrics
            if session is None or evaluate_fn is not None or strategy.fraction_evaluate > 0:
                arrays = strategy.arrays
            if strategy.fraction_evaluate > 0:
                if session is not None:
                    session.flush(strategy)
                found = strategy.aggregate_evaluate(
                    current,
                    grid.send_and_receive(
                        strategy.configure_evaluate(current, arrays, evaluate_config, grid),
                        timeout=timeout,
                    ),
                )
                if found is not None:
                    result.evaluate_metrics_clientapp[current] = found
            if evaluate_fn is not None and (found := evaluate_fn(current, arrays)) is not None:
                result.evaluate_metrics_serverapp[current] = found
            record = _record(strategy)
            stops = [callback.on_round(record) for callback in callbacks]
            stopped = any(stops)
            last = stopped or strategy.round == first + num_rounds
            checkpointing.after_round(strategy, callbacks, requests, last=last)
    except BaseException:
        _log(_end(strategy, session, callbacks))
        raise
    if errors := _end(strategy, session, callbacks):
        _log(errors[1:])
        raise errors[0]
    result.arrays = strategy.arrays
    return result


def _end(
    strategy: BaseStrategy, session: CohortSession | None, callbacks: Sequence[Callback]
) -> list[Exception]:
    """Close the session and end every callback; what they raise, in order."""
    errors = []
    ends: list[Callable[[], None]] = [callback.on_end for callback in callbacks]
    if session is not None:
        ends.insert(0, partial(session.close, strategy))
    for end in ends:
        try:
            end()
        except Exception as error:
            errors.append(error)
    return errors


def _log(errors: Sequence[Exception]) -> None:
    """Tell of errors that must not hide the one that is raised."""
    for error in errors:
        logger.error("while the run was ended, also: %s", error, exc_info=error)


def _complete_round(
    strategy: BaseStrategy,
    grid: Grid,
    session: CohortSession | None,
    requests: RequestLog | None,
    arrays: ArrayRecord,
    config: ConfigRecord,
    timeout: float,
) -> MetricRecord | None:
    """Attempt the next round until it is committed."""
    before = strategy.round
    for _ in range(_MOST_ATTEMPTS):
        if session is not None:
            attempt = BatchedRound(strategy, before + 1, session)
            if requests is not None and session.payers:
                requests.append(attempt.work)
            metrics = strategy.advance(attempt)
        else:
            messages = strategy.configure_train(before + 1, arrays, config, grid)
            if requests is not None:
                requests.append(strategy.accounts.asked_in(strategy.ledger.sequence))
            replies = grid.send_and_receive(messages, timeout=timeout)
            _, metrics = strategy.aggregate_train(before + 1, replies)
        if strategy.round > before:
            return metrics
    raise RuntimeError(
        f"round {before + 1} was attempted {_MOST_ATTEMPTS} times without success; the last "
        f"failures: {'; '.join(strategy.failures[:3]) or 'none reported'}"
    )


def _record(strategy: BaseStrategy) -> RoundRecord:
    return RoundRecord(
        round=strategy.round,
        outer_round=strategy.outer_round,
        x=strategy.x,
        participants=strategy.participants,
        failures=len(strategy.failures),
        uplink_bytes=strategy.bytes.uplink,
        downlink_bytes=strategy.bytes.downlink,
        recovery_bytes=strategy.bytes.recovery,
    )
