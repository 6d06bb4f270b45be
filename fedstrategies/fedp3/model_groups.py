"""The layer groups of a client's model, whatever kind of objective it has."""

from __future__ import annotations

from fedstrategies.objectives import Objective, TorchObjective
from fedstrategies.pruning import Entry, LayerGroup, LayerGroups, layer_groups

__all__ = ["groups_of"]


def groups_of(objective: Objective) -> LayerGroups:
    """`layer_groups` of a `TorchObjective`'s module; any other model is one layer, the classifier.

    (Logistic regression, say: every client then has all of it, and FedP3 is FedAvg.)

    Parameters
    ----------
    objective : Objective
        A client's f_i; its rows do not matter.

    Raises
    ------
    ValueError
        As `layer_groups`.
    """
    layout = objective.layout
    if isinstance(objective, TorchObjective):
        return layer_groups(objective.module, layout=layout)
    starts = [sum(layout.sizes[:place]) for place in range(len(layout.names))]
    entries = tuple(
        Entry(name=name, shape=shape, start=start, is_weight=True)
        for name, shape, start in zip(layout.names, layout.shapes, starts, strict=True)
    )
    whole = LayerGroup(name="model", entries=entries, itemsize=layout.dtype.itemsize)
    return LayerGroups(layout=layout, groups=(whole,), classifier=0)
