"""Ways to run: everything in this process, or in Ray actors.

Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.engines.cohort import CohortGrid
    from fedstrategies.engines.ray_grid import RayGrid

_HOME = {"CohortGrid": "cohort", "RayGrid": "ray_grid"}

__all__ = ["CohortGrid", "RayGrid"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'fedstrategies.engines' has no attribute {name!r}")
    return getattr(import_module(f"fedstrategies.engines.{_HOME[name]}"), name)
