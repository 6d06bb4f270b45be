"""Which exceptions are the user's to mend."""

from __future__ import annotations

import sys

from fedstrategies.experiment.options import ConfigError

__all__ = ["is_unwritten", "is_wrong_input"]


def is_wrong_input(error: BaseException) -> bool:
    """Whether ``error`` says what is wrong with options or data (exit code 2, no traceback).

    The data room is looked up only if it was loaded: what never read data cannot fail there.
    """
    data = sys.modules.get("fedstrategies.data.errors")
    return isinstance(error, ConfigError) or (
        data is not None and isinstance(error, data.DataError)
    )


def is_unwritten(error: BaseException) -> bool:
    """Whether ``error`` says that results could not be written (exit code 1, no traceback)."""
    writing = sys.modules.get("fedstrategies.experiment.writing")
    return writing is not None and isinstance(error, writing.WriteError)
