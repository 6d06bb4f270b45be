"""Criteria that look at activations as P_i: clients send sums of squares beside their layers.

Wanda, RIA and their like score a weight by the norm of what it is multiplied with. The server has
no data, so in a round of calibration every client of the cohort also tells, of the model it was
sent, the mean over its examples of

    ||x_j||^2 of each input, and ||z_k||^2 of each output,  of every layer that may be pruned

(`SquaredActivations`). Their mean over the cohort, f being the plain mean of the f_i, is what P_i
is drawn up by from the next round on, until it is gathered anew. Before the first, P_i is by
magnitude.

Private clients scale the numbers of each example down to a norm C and add noise: one more release
of their own mechanism, on the same Poisson sampling, and charged like a gradient. What becomes of
P_i is then post-processing.

Who tells enormous numbers decides what P_i keeps: against that there is the strategy's aggregator.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from fedstrategies.fedp3.layer_choice import AllLayers, LayerChoice
from fedstrategies.pruning import (
    ActivationStatistics,
    Calibrated,
    GlobalPruning,
    LayerGroups,
    Magnitude,
    PruningLaw,
    SquaredActivations,
)
from fedstrategies.pruning.squares import LEAST_NORM
from fedstrategies.reduce import sum_over_clients
from fedstrategies.robust import Aggregator

__all__ = ["Calibration", "Gathering", "gathering_for"]

logger = logging.getLogger("flwr")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """When clients are asked for the activations of the model they were sent.

    Attributes
    ----------
    every : int
        E >= 1: in rounds 1, 1 + E, 1 + 2E, ...
    max_norm : float
        C >= 1e-100: to which norm a private client scales the sums of squares of each example
        down, which its noise is a multiple of. Infinity, where nobody is private.

    Raises
    ------
    ValueError
        If a number is not as above.

    Examples
    --------
    After the example of `FedP3Client`. P_i keeps the half of each weight that Wanda scores highest,
    by activations that the clients tell anew in every second round:

    >>> from fedstrategies import FedP3
    >>> from fedstrategies.fedp3 import Calibration, parse_layers
    >>> from fedstrategies.pruning import GlobalPruning, Wanda
    >>> half = GlobalPruning(keep=0.5, criterion=Wanda())
    >>> strategy = FedP3(
    ...     groups=groups,
    ...     layers=parse_layers("lowerb"),
    ...     pruning=half,
    ...     calibration=Calibration(every=2),
    ...     stepsize=0.5,
    ... )
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.gathering.means.shape  # of 4 inputs and 3 outputs, and of 3 and 3
    torch.Size([13])
    """

    every: int = 1
    max_norm: float = inf

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every = {self.every}: calibration takes place in some round")
        if not self.max_norm >= LEAST_NORM:
            raise ValueError(f"max_norm = {self.max_norm} is below {LEAST_NORM}")

    def due(self, round: int) -> bool:
        """Whether a round (from 1) is one of calibration."""
        return (round - 1) % self.every == 0


class Gathering:
    """What a strategy knows of its clients' activations.

    Parameters
    ----------
    calibration : Calibration
        When they are asked.
    pruning : GlobalPruning
        P_i, by a criterion that needs activations.
    groups : LayerGroups
        Of the model.

    Attributes
    ----------
    means : Tensor or None
        The mean over the last cohort that told, shape (S,); None: nothing was told yet.

    Raises
    ------
    ValueError
        If the model has no layers to look at.
    """

    def __init__(
        self, *, calibration: Calibration, pruning: GlobalPruning, groups: LayerGroups
    ) -> None:
        self._calibration, self._pruning = calibration, pruning
        self._statistic = SquaredActivations(groups=groups, max_norm=calibration.max_norm)
        self.means: Tensor | None = None
        self._silent: tuple[str, ...] = ()

    def asked(self, round: int) -> SquaredActivations | None:
        """What the clients of a round are to tell; None: nothing."""
        return self._statistic if self._calibration.due(round) else None

    @property
    def law(self) -> PruningLaw:
        """P_i by what is known; by magnitude where nothing is."""
        if self.means is None:
            return replace(self._pruning, criterion=Magnitude())
        known = Calibrated(
            criterion=self._pruning.criterion,  # type: ignore[arg-type]  # it needs activations
            statistics={
                name: _relative(found)
                for name, found in self._statistic.statistics(self.means).items()
            },
            fallback=Magnitude(),
        )
        return replace(self._pruning, criterion=known)

    def follow(self, means: Tensor) -> None:
        """Take note of what a cohort told, and say so if of some layers it told nothing.

        Parameters
        ----------
        means : Tensor
            What `mean` gave, shape (S,).
        """
        self.means = means
        told = self._statistic.statistics(means)
        silent = tuple(name for name, one in told.items() if not bool(one.input_squares.any()))
        if silent and silent != self._silent:
            logger.warning(
                "clients told no activations of %s (is the layer called as a module?); its weights "
                "are kept by magnitude",
                ", ".join(silent),
            )
        self._silent = silent

    def mean(
        self, told: Tensor, partition_ids: Tensor, *, aggregator: Aggregator | None = None
    ) -> Tensor:
        """The plain mean of what clients told, or what a robust rule takes in its place: (S,).

        Parameters
        ----------
        told : Tensor
            Shape (C, S), C >= 1.
        partition_ids : Tensor
            int64, shape (C,), distinct; their order does not matter.
        aggregator : Aggregator, optional
            The strategy's.
        """
        ids, order = partition_ids.sort()
        shares = torch.full((len(ids),), 1.0 / len(ids), dtype=torch.float64)
        if aggregator is not None:
            return aggregator(told[order], shares)
        return sum_over_clients(told[order], ids, weights=shares)


def _relative(found: ActivationStatistics) -> ActivationStatistics:
    """Activations over the largest of their layer, so that no score leaves the range of floats.

    P_i compares the scores of one weight with each other, and for that the unit does not matter.
    """
    largest = max(found.input_squares.max(), found.output_squares.max())
    if not largest:
        return found
    return replace(
        found,
        input_squares=found.input_squares / largest,
        output_squares=found.output_squares / largest,
    )


def gathering_for(
    calibration: Calibration | None, pruning: PruningLaw, layers: LayerChoice, groups: LayerGroups
) -> Gathering | None:
    """What gathers the activations that P_i needs; None where it needs none.

    Parameters
    ----------
    calibration : Calibration or None
        The user's.
    pruning : PruningLaw
        P_i.
    layers : LayerChoice
        L_i.
    groups : LayerGroups
        Of the model.

    Raises
    ------
    ValueError
        If it needs some and ``calibration`` is missing, or the reverse, or if nothing is pruned.
    """
    criterion = getattr(pruning, "criterion", None)
    if not (isinstance(pruning, GlobalPruning) and getattr(criterion, "needs_activations", False)):
        if calibration is not None:
            raise ValueError(f"calibration: pruning by {pruning.spec} needs no activations")
        return None
    if calibration is None:
        raise ValueError(
            f"pruning by {pruning.spec} needs activations: give calibration=Calibration(), so "
            "that clients tell of theirs, or a criterion that is Calibrated already"
        )
    shares = pruning.keep if isinstance(pruning.keep, tuple) else (pruning.keep,)
    if isinstance(layers, AllLayers) or min(shares, default=1.0) == 1.0:
        raise ValueError(
            f"pruning by {pruning.spec}: nothing is pruned where clients have all layers or keep "
            "is 1, and activations would be told (and by private clients paid for) in vain"
        )
    return Gathering(calibration=calibration, pruning=pruning, groups=groups)
