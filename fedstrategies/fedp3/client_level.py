"""FedP3 under privacy of whole clients: clipped moves, and noise on every layer's mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedstrategies.privacy import MessagePrivacy, Secret
from fedstrategies.pruning import LayerGroups

__all__ = ["ClientLevelMechanism"]


@dataclass(frozen=True, kw_only=True)
class ClientLevelMechanism:
    """The server's side of `MessagePrivacy` where layers are sent by different clients.

    With moves m_i = W_i - x on L_i, clipped jointly, and S_l the clients that sent layer l,

        x^l <- x^l + (sum_{i in S_l} clip_C(m_i)^l + N(0, sigma^2 C^2 I)) / |S_l|.

    Multiplied by the public numbers |S_l| this is the sum of the clipped moves with noise, of
    which one client's part has norm C at most.

    Attributes
    ----------
    settings : MessagePrivacy
        C, sigma and where the secret is from.
    kept : Secret or None
        That of an earlier process of this run; None: a new one.
    """

    settings: MessagePrivacy
    kept: Secret | None = None

    @cached_property
    def secret(self) -> Secret:
        """The server's."""
        return self.settings.new_secret() if self.kept is None else self.kept

    def with_key(self, key: bytes) -> ClientLevelMechanism:
        """The same with the secret of an earlier process; a simulated one follows from the seed.

        Raises
        ------
        PrivacyError
            If the key has another length than a secret's.
        """
        return replace(self, kept=None if self.settings.simulated else Secret(key=key))

    def clip(self, models: Tensor, before: Tensor) -> Tensor:
        """``x + clip_C(W_i - x)`` on L_i: shape (C, D), from models (C, D) and x on L_i (D,)."""
        return before + self.settings.clip(models - before)

    def hide(self, mean: Tensor, sent: Tensor, groups: LayerGroups, round: int) -> Tensor:
        """The mean (d,) of the clipped models with noise; layers that nobody sent stay.

        Parameters
        ----------
        mean : Tensor
            Plain means of the layers, shape (d,).
        sent : Tensor
            bool, shape (C, G): who sent which layer.
        groups : LayerGroups
            Of the model.
        round : int
            t.
        """
        senders = groups.expand(sent.sum(dim=0)).to(torch.float64)
        noise = self.settings.noise(self.secret, round, mean)
        share = torch.where(senders > 0, noise / senders.clamp(min=1.0), torch.zeros_like(noise))
        return (mean.to(torch.float64) + share).to(mean.dtype)
