"""The job: a round of federated averaging, its data and batches on the device beforehand.

The set-up of pfl's published benchmark: 1,000 users of 50 images, cohorts of 50, batches of 10,
one local epoch (five steps), step size 0.1, and a CNN of two convolutions with 1.6 M parameters.
Images are random; the network is the smooth one of `benchmarks.simulation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.simulation.task import CLASSES, IMAGE, build_model
from fedstrategies.layout import Layout
from fedstrategies.random import (
    Purpose,
    client_keys,
    derived_keys,
    sample_without_replacement,
)

__all__ = ["SCALES", "STEPSIZE", "Scale", "Task"]

STEPSIZE = 0.1
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of the job.

    Attributes
    ----------
    clients, examples : int
        n, and rows of each client.
    cohort, batch, steps : int
        Clients in a round; rows in a batch; local steps.
    """

    clients: int
    examples: int
    cohort: int
    batch: int
    steps: int


SCALES = {
    "pfl": Scale(clients=1000, examples=50, cohort=50, batch=10, steps=5),
    "small": Scale(clients=12, examples=20, cohort=4, batch=5, steps=2),
}


class Task:
    """Model, data and batches on a device; cohorts and batches are functions of the round.

    Parameters
    ----------
    model : str
        A name of `benchmarks.simulation.task.MODELS`.
    scale : Scale
        Sizes.
    device : torch.device
        Where everything lies.
    """

    def __init__(self, model: str, scale: Scale, device: torch.device) -> None:
        self.model, self.scale, self.device = model, scale, device
        self.layout = Layout.of_module(build_model(model))
        draw = torch.Generator().manual_seed(1)
        count = scale.clients * scale.examples
        self.images = torch.empty((scale.clients, scale.examples, *IMAGE), device=device)
        for client in range(scale.clients):
            self.images[client] = torch.randn(scale.examples, *IMAGE, generator=draw)
        labels = torch.randint(CLASSES, (count,), generator=draw)
        self.labels = labels.view(scale.clients, scale.examples).to(device)

    def module(self) -> nn.Module:
        """A module of its own with the start weights, on the device."""
        return build_model(self.model).to(self.device)

    @cached_property
    def start(self) -> Tensor:
        """x^0, shape (d,), on the device."""
        return self.layout.flatten(dict(build_model(self.model).named_parameters())).to(self.device)

    def cohort(self, round: int) -> Tensor:
        """Clients of a round: int64, ascending, on the CPU."""
        key = client_keys(_SEED, round, torch.zeros(1, dtype=torch.int64), Purpose.COHORT)
        return sample_without_replacement(key, self.scale.clients, self.scale.cohort)[0]

    def keys(self, round: int) -> Tensor:
        """The round's stream of each client of the cohort: int64, shape (C,), on the CPU."""
        return client_keys(_SEED, round, self.cohort(round), Purpose.CLIENT)

    def rows(self, round: int) -> Tensor:
        """Rows of every batch, as this suite's local steps draw them: (C, K, B), on the device."""
        scale = self.scale
        streams = derived_keys(self.keys(round), Purpose.MINIBATCH)
        drawn = [
            sample_without_replacement(derived_keys(streams, step), scale.examples, scale.batch)
            for step in range(scale.steps)
        ]
        return torch.stack(drawn, dim=1).to(self.device)
