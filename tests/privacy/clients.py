"""Synthetic clients, private and plain."""

import torch
from torch import nn

from fedstrategies.objectives import LogisticRegression, TorchObjective
from fedstrategies.privacy import PrivateObjective, simulated_secret

SIZES = (1, 7, 8, 13, 132, 406, 8, 40)
DIMENSION = 11
PLAIN = {"max_grad_norm": float("inf"), "noise_multiplier": 0.0}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def logistic(size=40, dimension=DIMENSION, *, seed=0, l2=0.1):
    return LogisticRegression(
        features=normal(size, dimension, seed=seed),
        labels=normal(size, seed=seed + 10_000).sign(),
        l2=l2,
    )


def network(module, size=12, shape=(6,), classes=3, *, seed=0, **options):
    """A cross-entropy objective whose parameters are random."""
    targets = torch.arange(size) % classes
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + number))
    return TorchObjective(
        module=module.double(),
        loss=nn.CrossEntropyLoss(),
        data=(normal(size, *shape, seed=seed + 500), targets),
        **{"l2": 0.1, **options},
    )


def start(objective):
    return objective.layout.flatten(objective.initial_arrays())


def private(objective, *, partition=0, max_grad_norm=0.5, noise_multiplier=2.0, **options):
    return PrivateObjective(
        objective=objective,
        max_grad_norm=max_grad_norm,
        noise_multiplier=noise_multiplier,
        **{"secret": simulated_secret(0, partition), **options},
    )


def autograd_means(objective, x, *, max_norm, rows=None, divisor=None, coordinates=None):
    """``(1/B) sum clip_C(grad loss_j(x))`` by one backward pass an example; no regulariser."""
    rows = range(objective.num_examples) if rows is None else rows
    total = torch.zeros_like(x)
    for row in rows:
        gradient = objective.at_rows(x, torch.tensor([row]))[1] - objective.l2 * x
        if coordinates is not None:
            gradient = gradient * coordinates
        total += gradient * min(1.0, max_norm / float(gradient.norm()))
    return total / (objective.num_examples if divisor is None else divisor)
