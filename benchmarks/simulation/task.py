"""The job that every system does: models, data by client, cohorts, batches.

Federated averaging: a round sends the model x to a cohort of 20 of 100 clients; each takes five
SGD steps of step size 0.1 on batches of 10 of its 50 random 3 x 32 x 32 images (the work of one
epoch); x becomes the plain mean of the models they end with. Cohorts and batches are read from a
table (`schedule`), the same for all systems.

This module needs torch and numpy alone, so that it can be imported beside any framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = [
    "BATCH",
    "CLIENTS",
    "COHORT",
    "EXAMPLES",
    "MODELS",
    "STEPS",
    "STEPSIZE",
    "Schedule",
    "build_model",
    "client_data",
    "flat_weights",
    "local_steps",
]

CLIENTS, COHORT, EXAMPLES, BATCH, STEPS, STEPSIZE = 100, 20, 50, 10, 5, 0.1
CLASSES = 10
IMAGE = (3, 32, 32)


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))


def _cnn() -> nn.Module:
    # The usual two-convolution network, but smooth. With ReLU and max-pooling, sums taken in
    # another order (1e-8 apart) flip a unit within a few rounds, and the final weights differ by
    # 1e-3 between systems that all do the same: nothing could then be told from a wrong one.
    # A step costs the same within some per cent.
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.SiLU(),
        nn.Conv2d(32, 64, 3),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.SiLU(),
        nn.Linear(128, CLASSES),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"linear": _linear, "cnn": _cnn}
"""30,730 and 1,626,442 parameters."""


def build_model(name: str) -> nn.Module:
    """A model with the start weights x^0 that every system begins with.

    Parameters
    ----------
    name : str
        ``linear`` or ``cnn``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]()


def client_data(client: int) -> tuple[Tensor, Tensor]:
    """Images (50, 3, 32, 32), float32, and classes (50,), int64, of one client.

    The first call in a process makes the data of all clients, so that no later round pays for it.
    """
    return _everyones_data()[client]


@lru_cache(maxsize=1)
def _everyones_data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(EXAMPLES, *IMAGE, generator=generator),
            torch.randint(CLASSES, (EXAMPLES,), generator=generator),
        )
        for _ in range(CLIENTS)
    ]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Who takes part in each round, and on which of its examples.

    Attributes
    ----------
    cohorts : ndarray
        Client ids, ascending within a round: int64, shape (T, 20).
    rows : ndarray
        Numbers of the examples of each batch: int64, shape (T, 20, 5, 10).
    path : str
        The file it was read from, for other processes to do the same.
    """

    cohorts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    path: str = ""

    def __len__(self) -> int:
        """T, the number of rounds."""
        return len(self.cohorts)

    @classmethod
    def load(cls, path: Path | str) -> Schedule:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(cohorts=arrays["cohorts"], rows=arrays["rows"], path=str(path))

    def save(self, path: Path) -> None:
        """Write both tables to an ``.npz`` file."""
        np.savez(path, cohorts=self.cohorts, rows=self.rows)

    def cohort(self, round: int) -> list[int]:
        """Client ids of a round (from 0)."""
        return [int(client) for client in self.cohorts[round]]

    def batches(self, round: int, client: int) -> Tensor:
        """Row numbers of a client's five batches in a round: int64, shape (5, 10)."""
        (position,) = np.flatnonzero(self.cohorts[round] == client)
        return torch.from_numpy(self.rows[round, position])

    def tensors(self, round: int, client: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and targets of a client's batches in a round, one after the other."""
        features, targets = client_data(client)
        for rows in self.batches(round, client):
            yield features[rows], targets[rows]


def local_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    """SGD on the batches, in place, for systems that leave the training to their user."""
    for features, targets in batches:
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(model(features), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def flat_weights(model: nn.Module) -> npt.NDArray[np.float32]:
    """The parameters in the module's order, shape (d,)."""
    with torch.no_grad():
        flat = torch.cat([parameter.reshape(-1) for parameter in model.parameters()])
    return np.asarray(flat.numpy(), dtype=np.float32)
