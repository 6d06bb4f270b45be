"""How a model with pruned layers travels: one frame whole, one of the pruned weights.

Client i gets the groups in L_i and every bias whole, and of the other weights what P_i keeps:

    frame 0   all coordinates but the pruned weights, dense, in the order of the flat vector
    frame 1   the pruned weights end to end: values, with an index set

Where the share alone says which entries are kept (ordered pruning), frame 1 has no index set and
holds the kept entries only. A client for which nothing is pruned gets the model as one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.pruning import LayerGroups, OrderedPruning

__all__ = ["Downlink"]


@dataclass(frozen=True, kw_only=True)
class Downlink:
    """What the clients with one L_i and one share are sent.

    Attributes
    ----------
    groups : LayerGroups
        Of the model.
    assigned : tuple of bool
        L_i, one entry a group.
    keep : float
        p_i, the share of the other weights' entries that is kept.
    ordered : bool
        Whether the kept entries are leading blocks.

    Raises
    ------
    ValueError
        If ``assigned`` does not have one entry a group, or the classifier is not in it.
    """

    groups: LayerGroups
    assigned: tuple[bool, ...]
    keep: float
    ordered: bool = False

    def __post_init__(self) -> None:
        if len(self.assigned) != len(self.groups):
            raise ValueError(
                f"L_i of {len(self.assigned)} groups, the model has {len(self.groups)}"
            )
        if not self.assigned[self.groups.classifier]:
            raise ValueError("the classifier belongs to every client")

    @cached_property
    def own(self) -> Tensor:
        """Coordinates of the groups in L_i: bool, shape (d,)."""
        return self.groups.expand(torch.tensor(self.assigned))

    @cached_property
    def pruned(self) -> Tensor:
        """Coordinates that P_i looks at, weights outside L_i: bool, shape (d,)."""
        mask = torch.zeros(self.groups.dimension, dtype=torch.bool)
        if self.keep < 1.0:
            for entry in self.groups.entries:
                mask[entry.span] = entry.is_weight
            mask &= ~self.own
        return mask

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Dimension of each frame."""
        pruned = int(self.pruned.sum())
        if not pruned:
            return (self.groups.dimension,)
        return self.groups.dimension - pruned, self._kept_count if self.ordered else pruned

    @cached_property
    def own_slices(self) -> tuple[slice, ...]:
        """The coordinates in L_i as slices, ascending."""
        groups = zip(self.groups, self.assigned, strict=True)
        return tuple(sorted((s for g, own in groups if own for s in g.slices), key=_start))

    def split(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[Payload, ...]]:
        """The model as the clients get it, and the frames in which it travels.

        Parameters
        ----------
        x : Tensor
            The server's model, shape (d,).
        mask : Tensor or None
            What P_i keeps of the whole model, bool, shape (d,); None where nothing is pruned.
        """
        if mask is None or len(self.lengths) == 1:
            return x, (_dense(x),)
        pruned = self.pruned
        kept = mask[pruned]
        weights = x[pruned]
        point = torch.where(mask | ~pruned, x, torch.zeros_like(x))
        if self.ordered:
            return point, (_dense(x[~pruned]), _dense(weights[kept]))
        indices = kept.nonzero().T.contiguous()
        sparse = Payload(
            dimension=len(weights), values=Floats(weights[kept].unsqueeze(0)), indices=indices
        )
        return point, (_dense(x[~pruned]), sparse)

    def assemble(self, parts: Sequence[Payload]) -> Tensor:
        """The model from its frames: x (d,), zero where P_i left something out.

        Raises
        ------
        ValueError
            If a frame is not of the kind expected in its place.
        """
        for part, count in zip(parts, self._counts, strict=True):
            if not isinstance(part.values, Floats) or part.values.data.shape != (1, count):
                raise ValueError(f"a frame of the model does not hold {count} floats")
        first = parts[0].dense()[0]
        if len(parts) == 1:
            return first
        x = first.new_zeros(self.groups.dimension)
        x[~self.pruned] = first
        where = self.pruned
        if self.ordered:
            where = where & self._blocks
        x[where] = parts[1].dense()[0]
        return x

    @cached_property
    def _blocks(self) -> Tensor:
        """What ordered pruning keeps of any model: bool, shape (d,)."""
        law = OrderedPruning(keep=self.keep)
        return law.mask(torch.zeros(self.groups.dimension), self.groups, self.keep)

    @cached_property
    def _kept_count(self) -> int:
        return int((self.pruned & self._blocks).sum())

    @property
    def _counts(self) -> tuple[int, ...]:
        """Values in each frame."""
        if len(self.lengths) == 1 or self.ordered:
            return self.lengths
        kept = sum(
            int(self.keep * entry.size)
            for position, entry in enumerate(self.groups.entries)
            if entry.is_weight and not self.assigned[int(self.groups.group_of_entry[position])]
        )
        return self.lengths[0], kept


def _start(part: slice) -> int:
    return int(part.start)


def _dense(vector: Tensor) -> Payload:
    return Payload(dimension=len(vector), values=Floats(vector.unsqueeze(0)))
