"""A small convex problem whose constants and solution are known."""

from __future__ import annotations

import torch

from fedstrategies.compressors import Payload
from fedstrategies.objectives import LogisticRegression, Smoothness, logistic_smoothness


def problem(
    clients: int = 8, dimension: int = 12, rows: int = 6, l2: float = 0.1, seed: int = 0
) -> tuple[list[LogisticRegression], Smoothness]:
    generator = torch.Generator().manual_seed(seed)
    objectives = []
    for _ in range(clients):
        shift = torch.randn(dimension, generator=generator, dtype=torch.float64)
        features = torch.randn(rows, dimension, generator=generator, dtype=torch.float64) + shift
        labels = torch.sign(torch.randn(rows, generator=generator, dtype=torch.float64))
        objectives.append(LogisticRegression(features=features, labels=labels, l2=l2))
    return objectives, logistic_smoothness(LogisticRegression.stack(objectives))


def dense(payload: Payload) -> torch.Tensor:
    return payload.dense()
