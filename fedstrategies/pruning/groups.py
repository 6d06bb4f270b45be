"""Layer groups: the parts of a model that FedP3 assigns, prunes and averages.

A model's flat vector x is cut into groups, the W^l of the papers. Which entries form a group is
decided in `fedstrategies.pruning.grouping`; here is what a group then is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from fedstrategies.layout import Layout

__all__ = ["Entry", "LayerGroup", "LayerGroups"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named array inside the flat vector.

    Attributes
    ----------
    name : str
        As in the layout.
    shape : tuple of int
        Its shape.
    start : int
        Its first coordinate in x.
    is_weight : bool
        Whether it may be pruned. Biases and what a normalisation layer owns may not.
    cut_axes : tuple of (int, int)
        Axes along which ordered pruning cuts, each with the number of equal parts that are
        stacked along it (4 for an LSTM's gates) and are cut alike. Empty unless ``is_weight``.
    watchable : bool
        Whether what it is multiplied with can be looked at (see `SquaredActivations`).
    """

    name: str
    shape: tuple[int, ...]
    start: int
    is_weight: bool
    cut_axes: tuple[tuple[int, int], ...] = ()
    watchable: bool = False

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return prod(self.shape)

    @property
    def span(self) -> slice:
        """Its coordinates in x."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """One W^l: entries that are assigned, sent and averaged together.

    Attributes
    ----------
    name : str
        Of the submodule that owns the weight, or of the block.
    entries : tuple of Entry
        In the order of the flat vector; at least one.
    itemsize : int
        Bytes of one coordinate.
    """

    name: str
    entries: tuple[Entry, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """|W^l|, the number of coordinates."""
        return sum(entry.size for entry in self.entries)

    @property
    def bytes(self) -> int:
        """Bytes of the group sent dense, without any header."""
        return self.size * self.itemsize

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Its coordinates in x, ascending; adjacent entries share a slice."""
        merged: list[slice] = []
        for span in (entry.span for entry in self.entries):
            if merged and merged[-1].stop == span.start:
                span = slice(merged.pop().start, span.stop)
            merged.append(span)
        return tuple(merged)


@dataclass(frozen=True, kw_only=True)
class LayerGroups:
    """A partition of the coordinates of x into G groups, one of them the classifier.

    Attributes
    ----------
    layout : Layout
        Of the flat vector x (d,).
    groups : tuple of LayerGroup
        Every entry of the layout is in exactly one.
    classifier : int
        Position of the final classifier, which belongs to every client.

    Raises
    ------
    ValueError
        If the groups are not a partition of the layout's entries, two have the same name, or
        there is no such classifier.
    """

    layout: Layout
    groups: tuple[LayerGroup, ...]
    classifier: int

    def __post_init__(self) -> None:
        found = sorted(entry.name for group in self.groups for entry in group.entries)
        if found != sorted(self.layout.names):
            raise ValueError(
                f"layer groups hold the entries {found}, the layout {sorted(self.layout.names)}; "
                "each must be in exactly one group"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"two layer groups have the same name: {list(self.names)}")
        if not 0 <= self.classifier < len(self.groups):
            raise ValueError(f"classifier {self.classifier} is none of {len(self.groups)} groups")

    def __len__(self) -> int:
        """G, the number of groups."""
        return len(self.groups)

    def __iter__(self) -> Iterator[LayerGroup]:
        return iter(self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups, in order."""
        return tuple(group.name for group in self.groups)

    @property
    def shared(self) -> tuple[int, ...]:
        """Positions of the m groups that are shared out among clients: all but the classifier."""
        return tuple(k for k in range(len(self.groups)) if k != self.classifier)

    @property
    def dimension(self) -> int:
        """d, the length of x."""
        return self.layout.dimension

    @cached_property
    def sizes(self) -> Tensor:
        """|W^l| of every group: int64, shape (G,)."""
        return torch.tensor([group.size for group in self.groups])

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the order of the flat vector."""
        return tuple(
            sorted((e for group in self.groups for e in group.entries), key=lambda e: e.start)
        )

    @cached_property
    def group_of_entry(self) -> Tensor:
        """Position of the group of each entry, in the order of `entries`: int64."""
        owner = {e.name: k for k, group in enumerate(self.groups) for e in group.entries}
        return torch.tensor([owner[entry.name] for entry in self.entries])

    def expand(self, selected: Tensor) -> Tensor:
        """From groups to coordinates.

        Parameters
        ----------
        selected : Tensor
            Shape (..., G): one value per group.

        Returns
        -------
        Tensor
            Shape (..., d): each coordinate has the value of its group.

        Raises
        ------
        ValueError
            If the last axis is not G long.
        """
        if selected.ndim == 0 or selected.shape[-1] != len(self.groups):
            raise ValueError(
                f"one value for each of the {len(self.groups)} layer groups is needed along the "
                f"last axis, got shape {tuple(selected.shape)}"
            )
        device = selected.device
        return selected[..., self.group_of_entry.to(device)].repeat_interleave(
            torch.tensor(list(self.layout.sizes), device=device),
            dim=-1,
            output_size=self.dimension,
        )
