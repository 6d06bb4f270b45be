"""Cohort samplings."""

from fedstrategies.sampling.cohort import FullParticipation, NiceSampling, Sampling

__all__ = ["FullParticipation", "NiceSampling", "Sampling"]
