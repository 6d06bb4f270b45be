"""FedP3 under local differential privacy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedstrategies.fedp3.strategy import FedP3
from fedstrategies.flower import Delivery, Update

__all__ = ["LDPFedP3"]


class LDPFedP3(FedP3):
    """FedP3 under local differential privacy: each local step is one release of the client.

    So is each telling of activations, if the strategy has a `Calibration`.

    The clients must be private (``FedP3Client(..., privacy=Privacy(...))``): the gradient of each
    example is clipped to norm C jointly over the layers in L_i, summed over a Poisson sample,
    and noise N(0, sigma^2 C^2) added to every coordinate of L_i; l2 comes after. Only L_i is
    trained (``trained="assigned"``), so that the points asked about are functions of what was
    released; P_i looks at the server's model and at released activations, Q_i at public draws,
    never at data. Neighbouring shards differ by setting what one record adds to a release to zero;
    their sizes are public.

    With sigma = 0 and C infinite it is `FedP3` with ``trained="assigned"``.

    Parameters
    ----------
    **settings
        See `FedP3`; without ``trained`` and ``personal_head``.

    Raises
    ------
    ValueError
        For a personal head, which is trained on private rows outside the releases, or settings
        that are impossible.

    References
    ----------
    Yi, Gazagnadou, Richtarik, Lyu, "FedP3: Federated Personalized and Privacy-friendly Network
    Pruning under Model Heterogeneity" (ICLR 2024).

    Examples
    --------
    After the example of `EFBVClient`. Each of three rounds takes two releases of every client:

    >>> from fedstrategies.fedp3 import FedP3Client, LDPFedP3, groups_of
    >>> from fedstrategies.privacy import Privacy
    >>> own = Privacy(max_grad_norm=1.0, noise_multiplier=2.0, simulated_seed=0)
    >>> def private(context):
    ...     return FedP3Client(context, objective=client_fn(context).objective, privacy=own)
    >>> strategy = LDPFedP3(groups=groups_of(f[0]), local_steps=2, stepsize=0.1)
    >>> result = strategy.start(CohortGrid(client_app(private), num_clients=2), x0, num_rounds=3)
    >>> strategy.accounts.ledger(0).releases
    6
    """

    def __init__(self, **settings: Any) -> None:
        if settings.get("personal_head") is not None:
            raise ValueError(
                "personal_head: it is trained on private rows outside of the releases; leave it out"
            )
        if settings.setdefault("trained", "assigned") != "assigned":
            raise ValueError(
                "trained: a private client trains what it releases, the layers in L_i ('assigned')"
            )
        super().__init__(**settings)

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """See `FedP3.server_update`.

        Raises
        ------
        ValueError
            If an upload is of a client that is not private.
        """
        for delivery in deliveries:
            for client in delivery.partition_ids.tolist():
                if not self.accounts.ledger(client).releases:
                    raise ValueError(
                        f"partition {client} is not private: it sent a model and no ledger; give "
                        "its FedP3Client privacy=Privacy(...)"
                    )
        return super().server_update(x, deliveries)
