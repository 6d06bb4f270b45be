"""Whether pictures can be drawn: matplotlib is optional."""

from __future__ import annotations

import importlib.util

from fedstrategies.extras import install_hint

__all__ = ["why_no_pictures"]


def why_no_pictures() -> str | None:
    """What keeps pictures from being drawn, and what to do; None: nothing does."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return f"matplotlib is missing; {install_hint('plots')}"
