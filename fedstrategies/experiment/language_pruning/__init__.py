"""Post-training pruning of a language model, from its options to its files."""

from fedstrategies.experiment.language_pruning.config import PruneConfig
from fedstrategies.experiment.language_pruning.runner import PruneSummary, prune_language_model

__all__ = ["PruneConfig", "PruneSummary", "prune_language_model"]
