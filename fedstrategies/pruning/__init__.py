"""Layer groups of a model, and masks over its weights: global, local, ordered, post-training."""

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.calibrated import Calibrated
from fedstrategies.pruning.calibration import calibrate
from fedstrategies.pruning.criterion import Criterion, LayerCriterion, Magnitude
from fedstrategies.pruning.global_pruning import (
    GlobalPruning,
    OrderedPruning,
    Pruned,
    PruningLaw,
)
from fedstrategies.pruning.grouping import RESIDUAL_BLOCKS, layer_groups
from fedstrategies.pruning.groups import Entry, LayerGroup, LayerGroups
from fedstrategies.pruning.layer_criteria import (
    RIA,
    RelativeImportance,
    StochRIA,
    Symmetric,
    SymWanda,
    Wanda,
)
from fedstrategies.pruning.linear_blocks import LinearBlock, linear_blocks
from fedstrategies.pruning.local_pruning import (
    FixedPruning,
    LocalPruning,
    OrderedDropout,
    UniformPruning,
)
from fedstrategies.pruning.method import PruningMethod
from fedstrategies.pruning.method_spec import PRUNING_METHODS, parse_method, parse_pattern
from fedstrategies.pruning.norms import Subsets
from fedstrategies.pruning.patterns import Pattern, SemiStructured, Unstructured
from fedstrategies.pruning.pieces import Blocks
from fedstrategies.pruning.post_training import PrunedLayer, prune_module
from fedstrategies.pruning.regrow import Regrown, regrow
from fedstrategies.pruning.regrowing import Regrowing
from fedstrategies.pruning.scores import (
    relative_importance,
    ria_scores,
    stochria_scores,
    symmetric_scores,
    symwanda_scores,
    symwanda_scores_of,
)
from fedstrategies.pruning.spec import (
    GLOBAL_PRUNINGS,
    LOCAL_PRUNINGS,
    parse_global_pruning,
    parse_local_pruning,
)
from fedstrategies.pruning.squares import SquaredActivations

__all__ = [
    "GLOBAL_PRUNINGS",
    "LOCAL_PRUNINGS",
    "PRUNING_METHODS",
    "RESIDUAL_BLOCKS",
    "RIA",
    "ActivationStatistics",
    "Blocks",
    "Calibrated",
    "Criterion",
    "Entry",
    "FixedPruning",
    "GlobalPruning",
    "LayerCriterion",
    "LayerGroup",
    "LayerGroups",
    "LinearBlock",
    "LocalPruning",
    "Magnitude",
    "OrderedDropout",
    "OrderedPruning",
    "Pattern",
    "Pruned",
    "PrunedLayer",
    "PruningLaw",
    "PruningMethod",
    "Regrowing",
    "Regrown",
    "RelativeImportance",
    "SemiStructured",
    "SquaredActivations",
    "StochRIA",
    "Subsets",
    "SymWanda",
    "Symmetric",
    "UniformPruning",
    "Unstructured",
    "Wanda",
    "calibrate",
    "layer_groups",
    "linear_blocks",
    "parse_global_pruning",
    "parse_local_pruning",
    "parse_method",
    "parse_pattern",
    "prune_module",
    "regrow",
    "relative_importance",
    "ria_scores",
    "stochria_scores",
    "symmetric_scores",
    "symwanda_scores",
    "symwanda_scores_of",
]
