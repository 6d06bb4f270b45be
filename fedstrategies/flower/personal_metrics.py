"""How well the personal models serve the clients: the mean, the worst tenth, the spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from flwr.app import MetricRecord, RecordDict

from fedstrategies.flower.metrics import weighted_mean

__all__ = ["PERSONAL", "personal_metrics", "spread_over_clients"]

PERSONAL = "accuracy_personal"
"""Accuracy of a client's deployed model on its own examples."""


def spread_over_clients(accuracies: Sequence[float]) -> dict[str, float]:
    """Plain mean over clients, mean of the worst ``ceil(n/10)`` of them, standard deviation.

    Every client counts once: a mean over examples would hide the small clients, for whom
    personalisation is meant. Clients whose accuracy means nothing (NaN) are left out; the
    result is empty if there is no other.
    """
    known = np.sort([value for value in accuracies if value == value])
    if not len(known):
        return {}
    return {
        PERSONAL: float(known.mean()),
        f"{PERSONAL}_worst_decile": float(known[: ceil(len(known) / 10)].mean()),
        f"{PERSONAL}_std": float(known.std()),
    }


def personal_metrics(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Upstream's weighted mean of every metric, and the personal accuracy by `spread_over_clients`.

    It is the ``evaluate_metrics_aggr_fn`` of personalised methods where the user gives none.
    """
    mean = weighted_mean(records, weighted_by_key)
    replies: list[Mapping[str, object]] = [
        record for content in records for record in content.metric_records.values()
    ]
    personal = [value for reply in replies if isinstance(value := reply.get(PERSONAL), float)]
    for name, value in spread_over_clients(personal).items():
        mean[name] = value
    return mean
