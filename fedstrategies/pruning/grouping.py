"""Layer groups of any torch module.

The rules, in the order of the module's registration (``named_modules``):

1. A submodule that ``blocks`` names (a residual block) is one group, with all that is inside.
2. A module that owns a weight forms a group with its bias.
3. A normalisation layer, or any module that owns vectors only (PReLU, a layer scale), joins the
   group before it, or the first one where there is none before.
4. In a model with blocks, all that comes before the first one is one group, the stem.
5. Groups that share a parameter (tied weights) become one.
6. The last group is the classifier, unless another is named.

Registration is the order in which ``__init__`` assigned the submodules. Where that is not the
order of the computation, name the classifier, or give the layers that belong together as blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from fedstrategies.layout import Layout
from fedstrategies.pruning.axes import Role, cut_axes
from fedstrategies.pruning.groups import Entry, LayerGroup, LayerGroups
from fedstrategies.pruning.pieces import (
    Blocks,
    Named,
    Piece,
    join,
    named_parameters,
    pieces_of,
    untie,
)
from fedstrategies.pruning.squares import is_watchable

__all__ = ["RESIDUAL_BLOCKS", "layer_groups"]

RESIDUAL_BLOCKS = (
    "BasicBlock",
    "Bottleneck",
    "InvertedResidual",
    "PreActBlock",
    "PreActBottleneck",
    "ResidualBlock",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
)
"""Class names that usual implementations give to a block with a residual connection."""


def layer_groups(
    module: nn.Module,
    *,
    layout: Layout | None = None,
    blocks: Blocks = RESIDUAL_BLOCKS,
    classifier: str | None = None,
) -> LayerGroups:
    """The layer groups of ``module``; see the module's docstring for the rules.

    Parameters
    ----------
    module : torch.nn.Module
        Only names, shapes and classes are read.
    layout : Layout, optional
        Of the flat vector; None: all parameters. Parameters outside (frozen ones) belong to no
        group, and groups without any parameter inside do not exist.
    blocks : sequence of str or callable
        What is one group as a whole: names of classes (base classes count), globs over the names
        of submodules (``"layer[1-4]"`` makes a ResNet's stages the groups), or a predicate. Of
        nested ones the outermost counts.
    classifier : str, optional
        Name of the group that is the classifier; None: the last one.

    Returns
    -------
    LayerGroups
        In the order of registration.

    Raises
    ------
    ValueError
        If the layout has entries that are not parameters of ``module`` or differ in shape, or no
        group has the classifier's name.
    """
    layout = Layout.of_module(module) if layout is None else layout
    members = list(named_parameters(module))
    _check(layout, members)
    # A tied parameter may be in the layout under one of its names only.
    inside = {id(member.parameter) for member in members if member.name in layout.names}
    pieces = [
        piece
        for piece in join(pieces_of(module, members, blocks))
        if any(id(member.parameter) in inside for member in piece.members)
    ]
    last = pieces[-1]
    pieces = untie(pieces)
    if classifier is not None:
        named = [piece for piece in pieces if piece.name == classifier]
        if not named:
            raise ValueError(
                f"no layer group is called {classifier!r}; "
                f"the groups are {', '.join(piece.name for piece in pieces)}"
            )
        last = named[0]
    position = next(k for k, piece in enumerate(pieces) if set(last.members) <= set(piece.members))
    entries = _entries(layout, members, last)
    return LayerGroups(
        layout=layout,
        groups=tuple(_group(piece, entries, layout) for piece in pieces),
        classifier=position,
    )


def _check(layout: Layout, members: Sequence[Named]) -> None:
    shapes = {member.name: tuple(member.parameter.shape) for member in members}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if name not in shapes:
            raise ValueError(f"the layout's entry {name!r} is no parameter of the module")
        if shapes[name] != shape:
            raise ValueError(
                f"entry {name!r} has shape {shape} in the layout and {shapes[name]} in the module"
            )


def _entries(layout: Layout, members: Sequence[Named], classifier: Piece) -> dict[str, Entry]:
    """The layout's entries; under several names an axis is cut only if all allow it."""
    weights = [member for member in members if member.is_weight]
    first = _first_layer(weights)
    final = classifier.weights[-1].owner if classifier.weights else None
    allowed: dict[int, set[tuple[int, int]]] = {}
    for member in weights:
        role = Role(is_first=member.owner == first, is_final=member.owner == final)
        axes = set(cut_axes(member.module, member.leaf, tuple(member.parameter.shape), role))
        allowed[id(member.parameter)] = allowed.get(id(member.parameter), axes) & axes
    by_name = {member.name: member for member in members}
    names = Counter(id(member.parameter) for member in members)
    entries, start = {}, 0
    for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
        member = by_name[name]
        found = allowed.get(id(member.parameter))
        entries[name] = Entry(
            name=name,
            shape=shape,
            start=start,
            is_weight=found is not None,
            cut_axes=tuple(sorted(found or ())),
            # A tied weight meets the inputs of several layers.
            watchable=is_watchable(member.module, member.leaf) and names[id(member.parameter)] == 1,
        )
        start += size
    return entries


def _first_layer(weights: Sequence[Named]) -> str | None:
    """The layer that reads the data: the first weight whose owner is no container.

    A position embedding, say, belongs to the whole model and comes first in it.
    """
    for member in weights:
        if not {name for name, _ in member.module.named_children()} - {"parametrizations"}:
            return member.owner
    return weights[0].owner if weights else None


def _group(piece: Piece, entries: dict[str, Entry], layout: Layout) -> LayerGroup:
    names = {member.name for member in piece.members}
    own = [entry for name, entry in entries.items() if name in names]
    return LayerGroup(
        name=piece.name,
        entries=tuple(own),
        itemsize=layout.dtype.itemsize,
    )
