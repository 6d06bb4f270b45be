"""A private f_i: gradients that may leave the node, each of them charged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, cast

import torch
from torch import Tensor

from fedstrategies.layout import Layout
from fedstrategies.objectives import (
    BatchedObjective,
    ExampleStatistic,
    LogisticRegression,
    Objective,
    TorchObjective,
)
from fedstrategies.privacy.batched import PrivateObjectives
from fedstrategies.privacy.budget import Budget, BudgetSpent
from fedstrategies.privacy.clipped_gradients import ClippedGradients
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.ledger import Ledger
from fedstrategies.privacy.mechanism import GaussianMechanism
from fedstrategies.privacy.noise import NoisePurpose, poisson_sample, stream_key
from fedstrategies.privacy.secret import Secret
from fedstrategies.privacy.statistic import released_statistic

__all__ = ["PrivateObjective"]


class PrivateObjective(Objective):
    """f_i of which nothing is seen but noisy clipped gradients, and statistics released alike.

    ``value_and_gradient`` gives

        (1/B) (sum_{j in S} clip_C(grad loss_j(x)) + N(0, sigma^2 C^2 I)) + l2 x,

    S a Poisson sample of rate q = B/m: `GaussianMechanism`. Every call is one release: it is
    charged to `ledger` first, and never credited back, whatever happens next. Whoever runs the
    node stores the ledger before the result leaves. Noise and sample come from the secret, the
    number of the release and the question (point and mechanism), so that the same question at
    the same number has one answer, and two questions never share their noise.

    What an algorithm computes from releases is private by post-processing *if* it asks at
    points that are functions of earlier releases only. f_i itself is not released: values and
    accuracies are NaN. Those of ``objective`` are at hand for simulations, outside epsilon.

    Parameters
    ----------
    objective : LogisticRegression or TorchObjective
        f_i. Its own batch size, if it has one, plays no part.
    max_grad_norm : float
        C > 0, joint over the released coordinates; infinity only without noise.
    noise_multiplier : float
        sigma >= 0; at 0 nothing is private and epsilon infinite.
    expected_batch_size : int, optional
        B, from 1 to m. None: m, all examples in every release.
    secret : Secret
        The node's.
    ledger : Ledger
        What was spent before.
    budget : Budget, optional
        What may be spent in all; None: no end.
    coordinates : Tensor, optional
        bool, shape (d,): what is released and trained; the gradient is zero elsewhere, l2
        included. None: all.

    Raises
    ------
    PrivacyError
        If a number is impossible, the objective has no per-example gradients, or Opacus is
        needed and not installed.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        max_grad_norm: float,
        noise_multiplier: float,
        expected_batch_size: int | None = None,
        secret: Secret,
        ledger: Ledger | None = None,
        budget: Budget | None = None,
        coordinates: Tensor | None = None,
    ) -> None:
        self.mechanism = GaussianMechanism(
            max_grad_norm=max_grad_norm,
            noise_multiplier=noise_multiplier,
            expected_batch_size=expected_batch_size,
        )
        self.sample_rate = self.mechanism.sample_rate(objective.num_examples)
        if not isinstance(objective, LogisticRegression | TorchObjective):
            raise PrivacyError(
                f"{type(objective).__name__} has no per-example gradients; wrap a "
                "LogisticRegression or a TorchObjective (a personal objective goes around it)"
            )
        if coordinates is not None and (
            coordinates.shape != (objective.dimension,) or coordinates.dtype != torch.bool
        ):
            raise PrivacyError(
                f"coordinates must be bool of shape ({objective.dimension},), got "
                f"{coordinates.dtype} of shape {tuple(coordinates.shape)}"
            )
        self.coordinates = coordinates
        self.objective: LogisticRegression | TorchObjective = objective
        self.clipped: ClippedGradients | None = None
        if isinstance(objective, TorchObjective):
            self.clipped = ClippedGradients(objective, self.mechanism, coordinates)
        self.secret, self.budget = secret, budget
        self.ledger = Ledger() if ledger is None else ledger

    @property
    def layout(self) -> Layout:
        """That of f_i."""
        return self.objective.layout

    @property
    def num_examples(self) -> int:
        """m_i, which is public."""
        return self.objective.num_examples

    @property
    def stochastic(self) -> bool:
        """True: two releases at one point differ."""
        return True

    @property
    def releases_left(self) -> int | None:
        """Number of releases the budget still allows; None without a budget.

        Raises
        ------
        PrivacyError
            If Opacus is not installed.
        """
        if self.budget is None:
            return None
        return self.budget.releases_left(
            self.ledger,
            noise_multiplier=self.mechanism.noise_multiplier,
            sample_rate=self.sample_rate,
        )

    @property
    def spent(self) -> bool:
        """Whether the budget allows no further release."""
        return self.releases_left == 0

    def charge(self) -> int:
        """Charge one release and give its number; the result may be computed after this.

        Raises
        ------
        BudgetSpent
            If the budget allows no further release; nothing is charged.
        """
        if self.spent:
            raise BudgetSpent(self._complaint())
        number = self.ledger.releases
        self.ledger = self.ledger.charge(
            noise_multiplier=self.mechanism.noise_multiplier, sample_rate=self.sample_rate
        )
        return number

    def restore(self, ledger: Ledger) -> None:
        """Take note of another copy of this client's ledger; nothing charged is forgotten."""
        self.ledger = self.ledger.join(ledger)

    def streams(self, x: Tensor, number: int) -> tuple[bytes, bytes]:
        """Keys of the noise and of the sample of one release at x (d,)."""
        question = self.mechanism.question(x, self.num_examples, coordinates=self.coordinates)
        return (
            stream_key(self.secret, number, NoisePurpose.NOISE, question=question),
            stream_key(self.secret, number, NoisePurpose.SAMPLE, question=question),
        )

    def sample(self, stream: bytes) -> Tensor:
        """The Poisson sample S of a stream: bool, shape (m,)."""
        return poisson_sample(stream, self.num_examples, self.sample_rate)

    def initial_arrays(self) -> dict[str, Tensor]:
        """Those of f_i, which are to be data-independent."""
        return self.objective.initial_arrays()

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """NaN, for the value is not released, and one release of the gradient.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        key : Tensor, optional
            int64, shape (1,): the stream of dropout, if any; the rest is drawn from the secret.

        Returns
        -------
        tuple of Tensor
            Shapes () and (d,).

        Raises
        ------
        BudgetSpent
            If the budget allows no further release.
        """
        values, gradients = self.as_batch.value_and_gradient(x, keys=key)
        return values[0], gradients[0]

    def at_rows(self, x: Tensor, rows: Tensor) -> NoReturn:
        """Refused: rows of the caller's choice are not a Poisson sample.

        Raises
        ------
        PrivacyError
            Always.
        """
        raise PrivacyError(
            "training in shuffled passes is not what the accountant covers; take gradient steps "
            "on Poisson samples (value_and_gradient)"
        )

    def mean_statistic(self, x: Tensor, statistic: ExampleStatistic) -> Tensor:
        """One release of it; see `released_statistic`."""
        return released_statistic(self, x, statistic)

    def value(self, x: Tensor) -> Tensor:
        """NaN: not released."""
        return x.new_full((), float("nan"))

    def accuracy(self, x: Tensor) -> Tensor:
        """NaN: not released."""
        return x.new_full((), float("nan"))

    @classmethod
    def stack(cls, objectives: Sequence[Objective]) -> BatchedObjective:
        """All clients in one batched objective; each keeps its own ledger.

        Raises
        ------
        PrivacyError
            If some are not private.
        """
        if not all(isinstance(one, PrivateObjective) for one in objectives):
            raise PrivacyError("private objectives can be stacked with each other only")
        return PrivateObjectives(cast("Sequence[PrivateObjective]", objectives))

    def _complaint(self) -> str:
        budget = cast("Budget", self.budget)
        epsilon = self.ledger.epsilon(budget.delta, accountant=budget.accountant)
        return (
            f"the privacy budget is spent: epsilon {epsilon:.4g} of {budget.epsilon:g} at delta "
            f"{budget.delta:g} after {self.ledger.releases} releases; this client stops training"
        )
