"""What installs an optional dependency."""

from __future__ import annotations

__all__ = ["install_hint"]


def install_hint(extra: str) -> str:
    """The command that installs an extra, as shells of every system understand it.

    Parameters
    ----------
    extra : str
        ``simulation``, ``privacy``, ``data``, ``plots`` or ``tensorboard``.

    Examples
    --------
    >>> print(install_hint("plots"))
    pip install "fedstrategies[plots]"
    """
    return f'pip install "fedstrategies[{extra}]"'
