"""What a client is told about its privacy, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedstrategies.objectives import Objective
from fedstrategies.privacy.budget import Budget
from fedstrategies.privacy.ledger import Ledger
from fedstrategies.privacy.mechanism import GaussianMechanism
from fedstrategies.privacy.objective import PrivateObjective
from fedstrategies.privacy.secret import Secret, fresh_secret, simulated_secret

__all__ = ["Privacy"]


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The mechanism of a client's releases, what they may cost, and where its secret is from.

    Attributes
    ----------
    max_grad_norm : float
        C > 0; infinity only without noise.
    noise_multiplier : float
        sigma >= 0; at 0 nothing is private and epsilon infinite.
    expected_batch_size : int or None
        B, from 1 to m. None: m, all examples in every release.
    budget : Budget or None
        What may be spent in all; None: no end.
    simulated_seed : int or None
        None: the node draws its secret from the operating system, and what it measures on
        private rows stays there. An int: the secret is a function of it and the partition. Runs
        are then reproducible, the noise protects nothing, and measurements are reported.

    Raises
    ------
    PrivacyError
        If a number is impossible.
    """

    max_grad_norm: float
    noise_multiplier: float
    expected_batch_size: int | None = None
    budget: Budget | None = None
    simulated_seed: int | None = None

    def __post_init__(self) -> None:
        _ = self.mechanism  # which checks the numbers

    @property
    def mechanism(self) -> GaussianMechanism:
        """The mechanism of one release."""
        return GaussianMechanism(
            max_grad_norm=self.max_grad_norm,
            noise_multiplier=self.noise_multiplier,
            expected_batch_size=self.expected_batch_size,
        )

    @property
    def simulated(self) -> bool:
        """Whether the noise can be reproduced from public numbers."""
        return self.simulated_seed is not None

    def new_secret(self, partition: int) -> Secret:
        """The secret of a node that has none yet."""
        if self.simulated_seed is None:
            return fresh_secret()
        return simulated_secret(self.simulated_seed, partition)

    def private(
        self,
        objective: Objective,
        *,
        secret: Secret,
        ledger: Ledger | None = None,
        coordinates: Tensor | None = None,
    ) -> PrivateObjective:
        """The private objective of a client under these settings.

        Parameters
        ----------
        objective : LogisticRegression or TorchObjective
            f_i.
        secret : Secret
            The node's.
        ledger : Ledger, optional
            What was spent before.
        coordinates : Tensor, optional
            bool, shape (d,): what is released and trained; None: all.

        Raises
        ------
        PrivacyError
            As `PrivateObjective`.
        """
        return PrivateObjective(
            objective=objective,
            max_grad_norm=self.max_grad_norm,
            noise_multiplier=self.noise_multiplier,
            expected_batch_size=self.expected_batch_size,
            secret=secret,
            ledger=ledger,
            budget=self.budget,
            coordinates=coordinates,
        )
