"""Aggregation of client metrics that a malformed reply cannot break."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from flwr.app import MetricRecord, RecordDict

from fedstrategies.flower.records import records_of

__all__ = ["MetricsAggregator", "aggregate_metrics", "weighted_mean"]

logger = logging.getLogger("flwr")

_LARGEST = sys.float_info.max

MetricsAggregator = Callable[[list[RecordDict], str], MetricRecord]


def weighted_mean(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Mean of every metric over the clients that report it (upstream's default, where all do).

    One of the metrics is the weight. The weights concern the reported numbers only; no model is
    weighted by them.

    Parameters
    ----------
    records : list of RecordDict
        Of the clients that answered; one MetricRecord each.
    weighted_by_key : str
        The metric that is the weight; it is not in the result.
    """
    metrics = [records_of(record, MetricRecord)[0] for record in records]
    mean = MetricRecord()
    for key in dict.fromkeys(key for record in metrics for key in record):
        if key != weighted_by_key:
            told = [record for record in metrics if key in record]
            weights = [float(record[weighted_by_key]) for record in told]  # type: ignore[arg-type]
            values = [float(record[key]) for record in told]  # type: ignore[arg-type]
            total = sum(weights)
            mean[key] = sum(
                value * (weight / total) for value, weight in zip(values, weights, strict=True)
            )
    return mean


def aggregate_metrics(
    contents: Sequence[RecordDict], aggregate: MetricsAggregator, weighted_by_key: str
) -> MetricRecord | None:
    """Apply ``aggregate`` to the replies whose metrics are sound; None if none is.

    Sound: scalars, all finite, a positive weight, and the keys that most replies have. Replies
    with a weight and nothing else, as private clients give, are sound as well, but say nothing
    beside others that do.
    """
    found = [next(iter(records_of(content, MetricRecord)), None) for content in contents]
    sound = [
        record for record in found if record is not None and _is_sound(record, weighted_by_key)
    ]
    telling = [record for record in sound if len(record) > 1]
    silent = len(sound) - len(telling)
    usual = Counter(frozenset(record) for record in telling).most_common(1)
    same = [record for record in telling if frozenset(record) == usual[0][0]]
    if len(same) + silent < len(contents):
        logger.warning(
            "the metrics of %d of %d replies are left out: missing, not finite numbers, without "
            "a positive %r, or under other names than the rest",
            len(contents) - len(same) - silent,
            len(contents),
            weighted_by_key,
        )
    same = same or [record for record in sound if len(record) == 1]
    if not same:
        return None
    return aggregate([RecordDict({"metrics": record}) for record in same], weighted_by_key)


def _is_sound(record: MetricRecord, weighted_by_key: str) -> bool:
    numbers = [value for value in record.values() if isinstance(value, int | float)]
    # An integer may be too large for a float, and isfinite would raise.
    if len(numbers) < len(record) or not all(abs(value) < _LARGEST for value in numbers):
        return False
    weight = record.get(weighted_by_key)
    return isinstance(weight, int | float) and weight > 0
