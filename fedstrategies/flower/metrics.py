"""Aggregation of client metrics that a malformed reply cannot break."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from flwr.app import MetricRecord, RecordDict

from fedstrategies.flower.records import records_of

__all__ = ["MetricsAggregator", "aggregate_metrics", "weighted_mean"]

logger = logging.getLogger("flwr")

MetricsAggregator = Callable[[list[RecordDict], str], MetricRecord]


def weighted_mean(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Mean of every metric over clients, weighted by one of them (upstream's default).

    The weights concern the reported numbers only; no model is weighted by them.
    """
    metrics = [records_of(record, MetricRecord)[0] for record in records]
    weights = [float(record[weighted_by_key]) for record in metrics]  # type: ignore[arg-type]
    total = sum(weights)
    mean = MetricRecord()
    for key in metrics[0]:
        if key != weighted_by_key:
            values = [float(record[key]) for record in metrics]  # type: ignore[arg-type]
            mean[key] = sum(
                value * (weight / total) for value, weight in zip(values, weights, strict=True)
            )
    return mean


def aggregate_metrics(
    contents: Sequence[RecordDict], aggregate: MetricsAggregator, weighted_by_key: str
) -> MetricRecord | None:
    """Apply ``aggregate`` to the replies whose metrics are sound; None if none is.

    Sound: scalars, all finite, the same keys as the first, and a positive weight.
    """
    sound: list[RecordDict] = []
    keys: set[str] | None = None
    for content in contents:
        record = next(iter(records_of(content, MetricRecord)), None)
        if record is None or not _is_sound(record, weighted_by_key):
            logger.warning("a reply's metrics are missing or not finite numbers; left out")
            continue
        keys = set(record) if keys is None else keys
        if set(record) == keys:
            sound.append(RecordDict({"metrics": record}))
    return aggregate(sound, weighted_by_key) if sound else None


def _is_sound(record: MetricRecord, weighted_by_key: str) -> bool:
    numbers = [value for value in record.values() if isinstance(value, int | float)]
    if len(numbers) < len(record) or not all(math.isfinite(value) for value in numbers):
        return False
    weight = record.get(weighted_by_key)
    return isinstance(weight, int | float) and weight > 0
