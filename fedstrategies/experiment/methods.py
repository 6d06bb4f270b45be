"""From a configuration to its method: the one place that knows every family's.

A family is imported when it is needed: every actor of Flower's runtime comes by here.
"""

from __future__ import annotations

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.fedp3_config import FedP3Config
from fedstrategies.experiment.method import Method
from fedstrategies.experiment.problem import Problem
from fedstrategies.experiment.scafflix_config import ScafflixConfig
from fedstrategies.experiment.sppm_config import SPPMConfig

__all__ = ["method_of"]


def method_of(config: ExperimentConfig, problem: Problem) -> Method:
    """The method of a configuration.

    Raises
    ------
    TypeError
        If the configuration is of no family known here.
    """
    if isinstance(config, EFBVConfig):
        from fedstrategies.experiment.efbv_method import EFBVMethod

        return EFBVMethod(config, problem)
    if isinstance(config, ScafflixConfig):
        from fedstrategies.experiment.scafflix_method import ScafflixMethod

        return ScafflixMethod(config, problem)
    if isinstance(config, SPPMConfig):
        from fedstrategies.experiment.sppm_method import SPPMMethod

        return SPPMMethod(config, problem)
    if isinstance(config, FedP3Config):
        from fedstrategies.experiment.fedp3_method import FedP3Method

        return FedP3Method(config, problem)
    raise TypeError(f"{type(config).__name__} belongs to no family of algorithms")
