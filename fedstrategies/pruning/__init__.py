"""Layer groups of a model, and masks over its weights: global, local, ordered."""

from fedstrategies.pruning.criterion import Criterion, Magnitude
from fedstrategies.pruning.global_pruning import (
    GlobalPruning,
    OrderedPruning,
    Pruned,
    PruningLaw,
)
from fedstrategies.pruning.grouping import RESIDUAL_BLOCKS, layer_groups
from fedstrategies.pruning.groups import Entry, LayerGroup, LayerGroups
from fedstrategies.pruning.local_pruning import (
    FixedPruning,
    LocalPruning,
    OrderedDropout,
    UniformPruning,
)
from fedstrategies.pruning.pieces import Blocks
from fedstrategies.pruning.spec import (
    GLOBAL_PRUNINGS,
    LOCAL_PRUNINGS,
    parse_global_pruning,
    parse_local_pruning,
)

__all__ = [
    "GLOBAL_PRUNINGS",
    "LOCAL_PRUNINGS",
    "RESIDUAL_BLOCKS",
    "Blocks",
    "Criterion",
    "Entry",
    "FixedPruning",
    "GlobalPruning",
    "LayerGroup",
    "LayerGroups",
    "LocalPruning",
    "Magnitude",
    "OrderedDropout",
    "OrderedPruning",
    "Pruned",
    "PruningLaw",
    "UniformPruning",
    "layer_groups",
    "parse_global_pruning",
    "parse_local_pruning",
]
