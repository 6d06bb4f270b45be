"""Synthetic clients."""

import torch

from fedstrategies.objectives import LogisticRegression

SIZES = (1, 7, 8, 13, 132, 406, 8, 1, 13, 8, 140, 13)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_client(size, dimension, *, seed, l2=0.1, **options):
    return LogisticRegression(
        features=normal(size, dimension, seed=seed),
        labels=normal(size, seed=seed + 10_000).sign(),
        l2=l2,
        **options,
    )


def random_clients(dimension=113, **options):
    """Ragged shards; an odd dimension makes the blocks begin at all alignments."""
    return [random_client(size, dimension, seed=seed, **options) for seed, size in enumerate(SIZES)]
