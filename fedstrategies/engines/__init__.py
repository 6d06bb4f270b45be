"""Ways to run: everything in this process."""

from fedstrategies.engines.cohort import CohortGrid

__all__ = ["CohortGrid"]
