"""Privacy of whole clients: what one of them may move the model by, and noise to hide it in.

The other mechanism of this room protects single records. This one protects all records of a
client together: its move ``m_i = W_i - x`` is clipped to norm C over all that it sends, and

* *on the server*, which is then trusted, the sum of the moves is released with noise, against
  whoever sees the models that are sent:

      x <- x + (sum_i clip_C(m_i) + N(0, sigma^2 C^2 I)) / |S|

  with |S| the number of clients that sent the coordinate, a public number;
* *on the client* every message is ``x + clip_C(m_i) + N(0, sigma^2 C^2 I)``, against the server.

Neighbours differ by setting one client's move to zero, which changes the sum, or the message, by
at most C. A round is one Gaussian mechanism with q = 1: that a cohort was drawn is not counted in
its favour, because cohorts of a fixed size are no Poisson sample.

Source: McMahan, Ramage, Talwar, Zhang, "Learning differentially private recurrent language
models" (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from fedstrategies.privacy.accountant import Accountant, composed_epsilon
from fedstrategies.privacy.clipping import clip_factors
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.ledger import Ledger
from fedstrategies.privacy.mechanism import GaussianMechanism
from fedstrategies.privacy.noise import NoisePurpose, standard_normals, stream_key
from fedstrategies.privacy.secret import Secret, fresh_secret, simulated_secret

__all__ = ["MessagePrivacy", "MessageReleases"]

_SERVER = -1
"""Stands for the server among the partitions that simulated secrets are made for."""


@dataclass(frozen=True, kw_only=True)
class MessagePrivacy:
    """Clipped moves and noise on their sum.

    Attributes
    ----------
    max_norm : float
        C > 0 and finite, joint over all that a client sends.
    noise_multiplier : float
        sigma >= 0; at 0 nothing is private.
    simulated_seed : int or None
        None: the server draws its secret from the operating system. An int: the noise is a
        function of it, for experiments that must give the same answer twice.

    Raises
    ------
    PrivacyError
        If a number is not as above.
    """

    max_norm: float
    noise_multiplier: float
    simulated_seed: int | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.max_norm) and self.max_norm > 0.0):
            raise PrivacyError(f"max_norm must be positive and finite, got {self.max_norm}")
        if not (isfinite(self.noise_multiplier) and self.noise_multiplier >= 0.0):
            raise PrivacyError(
                f"noise_multiplier must be a finite number >= 0, got {self.noise_multiplier}"
            )

    @property
    def simulated(self) -> bool:
        """Whether the noise can be reproduced from public numbers."""
        return self.simulated_seed is not None

    def new_secret(self, partition: int = _SERVER) -> Secret:
        """The secret of a node, or of the server; to be kept as long as it releases."""
        if self.simulated_seed is None:
            return fresh_secret()
        return simulated_secret(self.simulated_seed, partition)

    def clip(self, moves: Tensor) -> Tensor:
        """``clip_C(m_i)``: rows (C, d) scaled down to norm C; zero where one is not finite."""
        norms = torch.linalg.vector_norm(moves, dim=1, keepdim=True)
        finite = torch.isfinite(norms)
        factors = clip_factors(norms, self.max_norm)
        return torch.where(finite, moves, torch.zeros_like(moves)) * factors

    def noise(self, secret: Secret, number: int, total: Tensor) -> Tensor:
        """N(0, sigma^2 C^2) for every coordinate of a release: float64, shape (d,).

        The noise is also a function of what it hides, so that a release that is computed anew
        from something else never meets the noise of the first attempt.

        Parameters
        ----------
        secret : Secret
            Of who adds it.
        number : int
            Of the release; on the server the round.
        total : Tensor
            What the noise is added to, shape (d,).
        """
        if self.noise_multiplier == 0.0:
            return torch.zeros(len(total), dtype=torch.float64)
        question = blake2b(np.ascontiguousarray(total.cpu().numpy()).tobytes()).digest()
        stream = stream_key(secret, number, NoisePurpose.MESSAGE, question=question)
        return self.noise_multiplier * self.max_norm * standard_normals([stream], len(total))[0]

    def epsilon(self, rounds: int, delta: float, *, accountant: Accountant = "rdp") -> float:
        """Epsilon at delta of ``rounds`` releases, for every client.

        Raises
        ------
        PrivacyError
            As `composed_epsilon`.
        """
        return composed_epsilon(((self.noise_multiplier, 1.0, rounds),), delta, accountant)


class MessageReleases:
    """A node's account of messages that it hid itself.

    Parameters
    ----------
    settings : MessagePrivacy
        C and sigma.
    secret : Secret
        The node's.
    """

    budget = None
    sample_rate = 1.0
    """Every message is a release in full."""

    def __init__(self, *, settings: MessagePrivacy, secret: Secret) -> None:
        self.settings, self.secret, self.ledger = settings, secret, Ledger()
        self.mechanism = GaussianMechanism(
            max_grad_norm=settings.max_norm, noise_multiplier=settings.noise_multiplier
        )

    def restore(self, ledger: Ledger) -> None:
        """Take note of another copy of this client's ledger; nothing charged is forgotten."""
        self.ledger = self.ledger.join(ledger)

    def hide(self, move: Tensor) -> Tensor:
        """``clip_C(m) + N(0, sigma^2 C^2 I)``, charged first: shape (d,).

        Parameters
        ----------
        move : Tensor
            m, shape (d,).
        """
        number = self.ledger.releases
        self.ledger = self.ledger.charge(
            noise_multiplier=self.settings.noise_multiplier, sample_rate=self.sample_rate
        )
        clipped = self.settings.clip(move.unsqueeze(0))[0]
        noise = self.settings.noise(self.secret, number, clipped)
        return (clipped.to(torch.float64) + noise).to(move.dtype)
