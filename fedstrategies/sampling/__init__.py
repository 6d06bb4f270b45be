"""Cohort samplings: which clients are asked, by which law, and how clients are grouped."""

from fedstrategies.sampling.base import Sampling
from fedstrategies.sampling.block import BlockSampling
from fedstrategies.sampling.cohort import FullParticipation, NiceSampling
from fedstrategies.sampling.nonuniform import NonuniformSampling
from fedstrategies.sampling.strata import (
    balanced_strata,
    contiguous_strata,
    feature_means,
    kmeans_strata,
    label_histograms,
)
from fedstrategies.sampling.stratified import StratifiedSampling

__all__ = [
    "BlockSampling",
    "FullParticipation",
    "NiceSampling",
    "NonuniformSampling",
    "Sampling",
    "StratifiedSampling",
    "balanced_strata",
    "contiguous_strata",
    "feature_means",
    "kmeans_strata",
    "label_histograms",
]
