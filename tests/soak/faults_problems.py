"""Small convex problems, with the clients that work on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from torch import Tensor, nn

from fedstrategies.efbv import EFBVClient
from fedstrategies.fedp3 import FedP3Client
from fedstrategies.flower import BaseClient
from fedstrategies.layout import Layout
from fedstrategies.objectives import (
    BatchedObjective,
    LogisticRegression,
    Objective,
    PersonalObjective,
    PersonalObjectives,
    Smoothness,
    TorchObjective,
    logistic_smoothness,
)
from fedstrategies.privacy import Privacy
from fedstrategies.pruning import LayerGroups, layer_groups
from fedstrategies.random import Purpose, client_keys
from tests.efbv.helpers import problem

__all__ = ["CLIENTS", "DIMENSION", "Problem", "layered", "logistic", "network", "personal"]

CLIENTS, DIMENSION = 8, 10
_LAYERS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The f_i of n clients, and how a client is made.

    Attributes
    ----------
    objectives : sequence of Objective
        f_i.
    kind : type of BaseClient
        The class of the clients.
    options : dict
        What they are built with besides.
    """

    objectives: Sequence[Objective]
    kind: type[BaseClient]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def clients(self) -> int:
        """n."""
        return len(self.objectives)

    @property
    def start(self) -> ArrayRecord:
        """x^0."""
        named = self.objectives[0].initial_arrays()
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in named.items()})

    def client(self, context: Context, kind: type[BaseClient]) -> BaseClient:
        """The client of a node."""
        own = self.objectives[int(context.node_config["partition-id"])]
        return kind(context, objective=own, **self.options)  # type: ignore[call-arg]

    @cached_property
    def batch(self) -> BatchedObjective:
        """The f_i as one."""
        return type(self.objectives[0]).stack(list(self.objectives))

    @cached_property
    def smoothness(self) -> Smoothness:
        """The constants of the f_i."""
        return logistic_smoothness(self.batch)  # type: ignore[arg-type]

    def loss(self, x: Tensor) -> float:
        """f(x)."""
        return float(self.batch.values(x).mean())

    def private(self, **mechanism: Any) -> Problem:
        """The same with clients that release noisy clipped gradients alone."""
        privacy = Privacy(max_grad_norm=1.0, noise_multiplier=0.5, simulated_seed=0, **mechanism)
        return replace(self, options={**self.options, "privacy": privacy})


def logistic(kind: type[BaseClient] = EFBVClient) -> Problem:
    """Eight logistic regressions in ten dimensions, condition number about 2."""
    objectives, _ = problem(CLIENTS, DIMENSION, l2=0.5)
    scaled = [replace(one, features=0.3 * one.features) for one in objectives]
    return Problem(objectives=scaled, kind=kind)


def personal(found: Problem) -> PersonalObjectives:
    """The f_i with their x_i*, as `ScafflixClient` finds them."""
    members = [
        PersonalObjective(
            objective=one, key=client_keys(0, 0, torch.tensor([i]), Purpose.LOCAL_OPTIMUM)
        )
        for i, one in enumerate(found.objectives)
    ]
    return PersonalObjective.stack(members)


class _InLayers(LogisticRegression):
    """Logistic regression whose model is cut into layers of equal width, one entry each."""

    @property
    def layout(self) -> Layout:
        """``0.weight``, ``1.weight``, ..."""
        width = self.features.shape[1] // _LAYERS
        return Layout(
            names=tuple(f"{place}.weight" for place in range(_LAYERS)),
            shapes=((1, width),) * _LAYERS,
            dtype=self.features.dtype,
        )

    def initial_arrays(self) -> dict[str, Tensor]:
        """The origin."""
        layout = self.layout
        return layout.unflatten(torch.zeros(layout.dimension, dtype=layout.dtype))


def layered(**options: Any) -> tuple[Problem, LayerGroups]:
    """Eight logistic regressions whose model has four layers, convex in all of them together."""
    width = 3
    module = nn.ModuleList(
        nn.Linear(width, 1, bias=False, dtype=torch.float64) for _ in range(_LAYERS)
    )
    groups = layer_groups(module)
    plain, _ = problem(CLIENTS, _LAYERS * width, l2=0.5)
    objectives = [
        _InLayers(features=0.3 * one.features, labels=one.labels, l2=one.l2) for one in plain
    ]
    return Problem(
        objectives=objectives, kind=FedP3Client, options={"groups": groups, **options}
    ), groups


def network() -> tuple[Problem, LayerGroups]:
    """Eight networks of three layers, whose activations can be looked at."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths, sigmoid = (3, 4, 4, 2), nn.Sigmoid()
        layers = [nn.Linear(a, b).double() for a, b in pairwise(widths)]
    module = nn.Sequential(layers[0], sigmoid, layers[1], sigmoid, layers[2])
    draw, loss = torch.Generator().manual_seed(1), nn.CrossEntropyLoss()
    objectives = []
    for client in range(CLIENTS):
        labels = torch.arange(12 + client) % 2
        rows = torch.randn(len(labels), 3, dtype=torch.float64, generator=draw)
        features = rows + 2 * labels[:, None] - 1
        objectives.append(
            TorchObjective(module=module, loss=loss, data=(features, labels), l2=0.01)
        )
    groups = layer_groups(module)
    return Problem(objectives=objectives, kind=FedP3Client, options={"groups": groups}), groups
