"""EF-BV and its corners EF21, DIANA and gradient descent.

Names are imported when first used, so that the mathematics can be had without Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.efbv.algorithm import ClientRule, ServerState, Upload, server_step
    from fedstrategies.efbv.client import EFBVClient
    from fedstrategies.efbv.constants import Theory
    from fedstrategies.efbv.special_cases import DIANA, EF21, GradientDescent
    from fedstrategies.efbv.strategy import EFBV

__all__ = [
    "DIANA",
    "EF21",
    "EFBV",
    "ClientRule",
    "EFBVClient",
    "GradientDescent",
    "ServerState",
    "Theory",
    "Upload",
    "server_step",
]

_HOMES = {
    "algorithm": ("ClientRule", "ServerState", "Upload", "server_step"),
    "client": ("EFBVClient",),
    "special_cases": ("DIANA", "EF21", "GradientDescent"),
    "strategy": ("EFBV",),
    "constants": ("Theory",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
