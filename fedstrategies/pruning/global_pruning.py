"""Global pruning P_i: what the server leaves out of the layers that a client does not train.

Client i receives ``W^l`` for l in L_i and ``P_i * W^l`` for all others. P_i prunes each weight
tensor on its own; biases and the parameters of normalisation layers stay. P_i is a function of
the server's model and, for criteria that look at activations, of what clients told of theirs.

Source: Yi et al., "FedP3" (ICLR 2024); dissertation arXiv 2509.08233, chapter on FedP3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import ceil, log2, prod, sqrt

import torch
from torch import Tensor

from fedstrategies.compressors.select import largest
from fedstrategies.pruning.criterion import Criterion, Magnitude
from fedstrategies.pruning.groups import Entry, LayerGroups
from fedstrategies.pruning.ordered import block_shape, leading_blocks

__all__ = ["GlobalPruning", "OrderedPruning", "Pruned", "PruningLaw"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """Models as they are sent to C clients.

    Attributes
    ----------
    masks : Tensor
        bool, shape (C, d): True where the client gets the coordinate.
    models : Tensor
        Shape (C, d): x there and 0 elsewhere.
    """

    masks: Tensor
    models: Tensor


@dataclass(frozen=True, kw_only=True)
class PruningLaw(ABC):
    """Which entries of a weight are kept, and at which share.

    Attributes
    ----------
    keep : float or tuple of float
        p, the share of a weight's entries that is *kept*, in [0, 1]; one for all clients, or one
        for each.

    Raises
    ------
    ValueError
        If a share is outside.
    """

    keep: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for share in self.keep if isinstance(self.keep, tuple) else (self.keep,):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"keep = {share}: the share that is kept is between 0 and 1")

    @property
    @abstractmethod
    def spec(self) -> str:
        """The rule's name as the command line writes it, without the share."""

    @abstractmethod
    def kept(self, entry: Entry, keep: float) -> int:
        """Entries of one weight that are kept at share ``keep``."""

    @abstractmethod
    def index_bits(self, entry: Entry, keep: float) -> int:
        """Bits that say which entries these are; 0 where the share says it."""

    @abstractmethod
    def mask_of(self, weight: Tensor, entry: Entry, keep: float) -> Tensor:
        """Mask of one weight: bool, shape (numel,)."""

    def share(self, client: int) -> float:
        """p_i.

        Raises
        ------
        ValueError
            If there is a share for each client and none for this one.
        """
        if not isinstance(self.keep, tuple):
            return self.keep
        if not 0 <= client < len(self.keep):
            raise ValueError(
                f"keep has {len(self.keep)} shares and none for client {client}; "
                "give one for each client, or one for all"
            )
        return self.keep[client]

    def mask(self, x: Tensor, groups: LayerGroups, keep: float) -> Tensor:
        """What is kept of the whole model at one share, no group exempt.

        Parameters
        ----------
        x : Tensor
            The server's model, shape (d,).
        groups : LayerGroups
            Of that model.
        keep : float
            p in [0, 1].

        Returns
        -------
        Tensor
            bool, shape (d,).

        Raises
        ------
        ValueError
            If x does not have the groups' dimension, or the criterion's scores do not fit.
        """
        if x.shape != (groups.dimension,):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected ({groups.dimension},)")
        mask = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        if keep < 1.0:
            for entry in groups.entries:
                if entry.is_weight:
                    weight = x[entry.span].view(entry.shape)
                    mask[entry.span] = self.mask_of(weight, entry, keep)
        return mask

    def prune(self, x: Tensor, groups: LayerGroups, assigned: Tensor, *, clients: Tensor) -> Pruned:
        """``P_i * W`` for C clients: the groups in L_i whole, of the others what the rule keeps.

        Each client's row is the same alone and in any cohort.

        Parameters
        ----------
        x : Tensor
            The server's model, shape (d,).
        groups : LayerGroups
            Of that model.
        assigned : Tensor
            L_i: bool, shape (C, G).
        clients : Tensor
            Partition ids, int64, shape (C,): whose shares.

        Raises
        ------
        ValueError
            As `mask` and `share`, or if ``assigned`` is of another number of clients.
        """
        if len(assigned) != len(clients):
            raise ValueError(f"L_i of {len(assigned)} clients for {len(clients)} clients")
        shares = [self.share(client) for client in clients.tolist()]
        common = {share: self.mask(x, groups, share) for share in dict.fromkeys(shares)}
        masks = groups.expand(assigned.to(x.device))
        for row, share in zip(masks, shares, strict=True):
            row |= common[share]
        return Pruned(masks=masks, models=torch.where(masks, x, torch.zeros_like(x)))


@dataclass(frozen=True, kw_only=True)
class GlobalPruning(PruningLaw):
    """Keep the ``int(p numel)`` entries of each weight that a criterion scores highest.

    Ties go to the lowest index, so that a mask is a function of the model on every device. The
    product is taken in float64 and truncated.

    Attributes
    ----------
    keep : float or tuple of float
        See `PruningLaw`.
    criterion : Criterion
        What makes an entry worth keeping.

    Raises
    ------
    ValueError
        If a share is outside [0, 1].
    """

    criterion: Criterion = field(default_factory=Magnitude)

    @property
    def spec(self) -> str:
        """The criterion's."""
        return self.criterion.spec

    def kept(self, entry: Entry, keep: float) -> int:
        """``int(p numel)``."""
        return int(keep * entry.size)

    def index_bits(self, entry: Entry, keep: float) -> int:
        """The smaller of a bitmap, ``numel``, and a list, ``kept ceil(log2 numel)``."""
        return min(entry.size, self.kept(entry, keep) * ceil(log2(entry.size)))

    def mask_of(self, weight: Tensor, entry: Entry, keep: float) -> Tensor:
        """See `PruningLaw.mask_of`.

        Raises
        ------
        ValueError
            If the criterion's scores have another shape, or one is negative or not finite.
        """
        chosen = torch.zeros(entry.size, dtype=torch.bool, device=weight.device)
        count = self.kept(entry, keep)
        if count:
            scores = self._scores(weight, entry)
            chosen[largest(scores.reshape(1, -1), count)[0]] = True
        return chosen

    def _scores(self, weight: Tensor, entry: Entry) -> Tensor:
        scores = self.criterion.scores(weight, name=entry.name)
        if scores.shape != weight.shape or not scores.is_floating_point():
            raise ValueError(
                f"criterion {self.criterion.spec} gives scores of shape {tuple(scores.shape)} and "
                f"{scores.dtype} for {entry.name!r}; expected floating-point of {entry.shape}"
            )
        if not bool(((scores >= 0) & torch.isfinite(scores)).all()):
            raise ValueError(
                f"criterion {self.criterion.spec} gives a score that is negative or not finite "
                f"for {entry.name!r}"
            )
        # Adding zero turns -0.0 into 0.0; half precision converts without loss.
        return (scores if scores.dtype == torch.float64 else scores.float()) + 0.0


@dataclass(frozen=True, kw_only=True)
class OrderedPruning(PruningLaw):
    """Keep a leading block of each weight: a narrower network, the same for all models.

    The block has ``ceil(sqrt(p) d_a)`` of each axis that is cut (see `Entry.cut_axes`): every
    layer has the same relative width, so the outputs that one layer keeps are the inputs that the
    next one reads, and a weight with both axes cut keeps p of its entries, up to rounding. The
    first layer and the classifier, which have one such axis, keep sqrt(p).

    Parameters are those of `PruningLaw`.
    """

    @property
    def spec(self) -> str:
        """``ordered``."""
        return "ordered"

    def kept(self, entry: Entry, keep: float) -> int:
        """Entries in the block."""
        return prod(block_shape(entry, sqrt(keep)))

    def index_bits(self, entry: Entry, keep: float) -> int:
        """None: p says which block."""
        return 0

    def mask_of(self, weight: Tensor, entry: Entry, keep: float) -> Tensor:
        """See `PruningLaw.mask_of`."""
        width = torch.tensor([sqrt(keep)], dtype=torch.float64, device=weight.device)
        return leading_blocks(entry, width)[0]
