"""Scafflix with its relatives i-Scaffnew and Scaffnew, and the baselines FLIX and FedAvg.

Names are imported when first used, so that the mathematics can be had without Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.scafflix.algorithm import ScafflixRule
    from fedstrategies.scafflix.baseline_rules import FedAvgRule, FLIXRule
    from fedstrategies.scafflix.baselines import FLIX, FedAvg
    from fedstrategies.scafflix.client import ScafflixClient
    from fedstrategies.scafflix.special_cases import IScaffnew, Scaffnew
    from fedstrategies.scafflix.strategy import Scafflix
    from fedstrategies.scafflix.theory import Theory

__all__ = [
    "FLIX",
    "FLIXRule",
    "FedAvg",
    "FedAvgRule",
    "IScaffnew",
    "Scafflix",
    "ScafflixClient",
    "ScafflixRule",
    "Scaffnew",
    "Theory",
]

_HOMES = {
    "algorithm": ("ScafflixRule",),
    "baseline_rules": ("FLIXRule", "FedAvgRule"),
    "baselines": ("FLIX", "FedAvg"),
    "client": ("ScafflixClient",),
    "special_cases": ("IScaffnew", "Scaffnew"),
    "strategy": ("Scafflix",),
    "theory": ("Theory",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
