"""One problem of the paper: a data set, n clients, the overlap xi, and the operator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from fedstrategies.compressors import CompK
from fedstrategies.data import DataError, load_dataset
from fedstrategies.efbv import theory
from fedstrategies.efbv.theory import Theory
from fedstrategies.experiment.problem import Problem, load_problem
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.objectives import BatchedObjective, LogisticRegression, Smoothness

__all__ = ["L2", "METHODS", "Instance", "find_dataset", "load_instance"]

L2 = 0.001
"""Weight of ``(l2/2) ||x||^2``: the default of the authors' convex scripts."""

METHODS = {"ef21": "EF21", "efbv": "EF-BV"}
"""The two methods by the names of their files, with the names they are printed under."""

# The clients of a chunk are those whose gradients fit a core's share of the cache; temporaries
# that leave it cost half the time of a round again.
_CHUNK_BYTES = 2 * 2**20
_SUFFIXES = (".xz", "", ".gz", ".bz2", ".txt")


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A problem, and its clients in chunks on a device.

    Attributes
    ----------
    problem : Problem
        The rows of every client; f*, the constants and x^0 follow from it.
    name : str
        Short name of the data set.
    k_prime : int
        k' of the operator comp-(1, k').
    device : torch.device
        Where the rounds are computed.
    """

    problem: Problem
    name: str
    k_prime: int
    device: torch.device

    @property
    def clients(self) -> int:
        """n."""
        return self.problem.config.clients

    @property
    def dimension(self) -> int:
        """d."""
        return self.problem.dimension

    @property
    def xi(self) -> int:
        """Number of consecutive shards each client holds."""
        return self.problem.config.overlap

    @property
    def operator(self) -> CompK:
        """comp-(1, k')."""
        return CompK(k=1, k_prime=self.k_prime)

    @cached_property
    def smoothness(self) -> Smoothness:
        """The exact constants of the f_i."""
        return self.problem.smoothness

    @cached_property
    def fstar(self) -> float:
        """min f, by Newton's method to a gradient norm of 1e-11."""
        return self.problem.solution.value

    def theory(self, method: str) -> Theory:
        """Scalings and step size; EF21 is run on lambda* C, since comp does not contract."""
        analyse = {"ef21": theory.ef21, "efbv": theory.efbv}[method]
        constants = self.operator.constants(self.dimension)
        return analyse(constants, self.smoothness, clients=self.clients)

    @cached_property
    def chunks(self) -> tuple[BatchedObjective, ...]:
        """The f_i, stacked chunk by chunk in the order of the clients."""
        size = self.clients
        if self.device.type == "cpu":
            size = max(1, _CHUNK_BYTES // (8 * self.dimension))
        return tuple(
            LogisticRegression.stack([self._client(i) for i in range(start, stop)])
            for start in range(0, self.clients, size)
            if (stop := min(start + size, self.clients))
        )

    def _client(self, partition_id: int) -> LogisticRegression:
        local = self.problem.objective(partition_id)
        if self.device.type == "cpu":
            return local
        return LogisticRegression(
            features=local.features.to(self.device),
            labels=local.labels.to(self.device),
            l2=local.l2,
        )


def find_dataset(folder: Path, name: str) -> Path:
    """The LIBSVM file called ``name`` in a folder or in its ``libsvm`` subfolder.

    Raises
    ------
    DataError
        If there is none.
    """
    for place in (folder, folder / "libsvm"):
        for suffix in _SUFFIXES:
            path = place / f"{name}{suffix}"
            if path.is_file():
                return path
    raise DataError(f"{folder}: holds no {name}.xz, {name} or {name}.txt (LIBSVM); see --only")


def load_instance(
    dataset: str | Path,
    *,
    xi: int = 1,
    clients: int | None = None,
    x0: str = "normal:loc=10",
    seed: int = 0,
    device: str = "cpu",
) -> Instance:
    """Read a data set and deal its rows.

    Parameters
    ----------
    dataset : str or Path
        ``mushrooms`` or a LIBSVM file.
    xi : int
        Each client also holds the next xi - 1 shards.
    clients : int, optional
        n; None: n = N, one shard a row.
    x0, seed : str, int
        Start point as the command line writes it, and the seed of it and of the compressors.
    device : str
        Where the rounds are computed, as torch writes it.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    rows = load_dataset(dataset)
    config = ProblemConfig(
        dataset=str(dataset),
        clients=len(rows) if clients is None else clients,
        overlap=xi,
        l2=L2,
        x0=x0,
        seed=seed,
    )
    return Instance(
        problem=load_problem(config),
        name=rows.name,
        k_prime=max(1, rows.dimension // 2),
        device=torch.device(device),
    )
