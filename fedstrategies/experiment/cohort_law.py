"""The sampling that a configuration names, from the clients' data where it depends on them."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import Problem
from fedstrategies.experiment.specs import parse_groups, parse_probabilities
from fedstrategies.experiment.sppm_config import SPPMConfig
from fedstrategies.objectives import SolveError
from fedstrategies.sampling import (
    BlockSampling,
    FullParticipation,
    NiceSampling,
    NonuniformSampling,
    Sampling,
    StratifiedSampling,
    balanced_strata,
    contiguous_strata,
    feature_means,
    kmeans_strata,
    label_histograms,
)

__all__ = ["cohort_law"]

logger = logging.getLogger("flwr")

Groups = tuple[tuple[int, ...], ...]


def cohort_law(config: SPPMConfig, problem: Problem) -> Sampling:
    """The law of cohorts.

    Raises
    ------
    ConfigError
        If it cannot be had from these clients.
    """
    try:
        match config.sampling:
            case "full":
                return FullParticipation()
            case "nice":
                return NiceSampling(cohort_size=config.cohort_size or 1)
            case "stratified":
                return StratifiedSampling(strata=_groups(config, problem, config.cohort_size or 1))
            case "block":
                return _block(config, problem)
            case _:
                return _nonuniform(config, problem)
    except (ValueError, SolveError) as error:
        raise ConfigError(f"sampling {config.sampling}: {error}") from None


def _nonuniform(config: SPPMConfig, problem: Problem) -> NonuniformSampling:
    given = parse_probabilities(config.probabilities or "uniform")
    if given == "uniform":
        return NonuniformSampling.uniform(config.clients)
    if given == "mu":
        return NonuniformSampling.for_strong_convexity(_convexity(problem))
    if given == "variance":
        return NonuniformSampling.for_variance(_gradients_at_solution(problem))
    assert isinstance(given, tuple)
    return NonuniformSampling(probabilities=given)


def _block(config: SPPMConfig, problem: Problem) -> BlockSampling:
    # Blocks of about the size of a cohort.
    count = max(1, round(config.clients / (config.cohort_size or config.clients)))
    blocks = _groups(config, problem, count)
    given = parse_probabilities(config.probabilities or "uniform")
    if given == "uniform":
        return BlockSampling(blocks=blocks)
    if given == "mu":
        return BlockSampling.for_strong_convexity(blocks, _convexity(problem))
    if given == "variance":
        return BlockSampling.for_variance(blocks, _gradients_at_solution(problem))
    assert isinstance(given, tuple)
    return BlockSampling(blocks=blocks, probabilities=given)


def _groups(config: SPPMConfig, problem: Problem, count: int) -> Groups:
    how = config.strata or "contiguous"
    given = parse_groups(how, config.clients)
    if given is not None:
        return given
    name, _, balanced = how.partition(":")
    if name == "contiguous":
        return contiguous_strata(config.clients, count)
    if name == "gradients":
        logger.warning(
            "strata by gradients: each client's gradient at x0 is seen by whoever clusters, and "
            "can give away examples"
        )
    cluster = balanced_strata if balanced else kmeans_strata
    return cluster(_signatures(name, problem), count, seed=config.seed)


def _signatures(name: str, problem: Problem) -> Tensor:
    if name == "labels":
        found, numbered = torch.unique(problem.labels, return_inverse=True)
        return label_histograms([numbered[rows] for rows in problem.shards], len(found))
    if name == "features":
        return feature_means([problem.features[rows] for rows in problem.shards])
    return problem.objectives.value_and_gradient(problem.start_point)[1]


def _convexity(problem: Problem) -> Tensor:
    known = problem.smoothness
    if known is None or known.mu_i is None or not any(known.mu_i):
        raise ValueError("probabilities mu needs strongly convex f_i; give --l2, or uniform")
    return torch.tensor(known.mu_i, dtype=torch.float64)


def _gradients_at_solution(problem: Problem) -> Tensor:
    return problem.objectives.value_and_gradient(problem.solution.x)[1]
