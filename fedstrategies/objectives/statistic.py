"""What else is asked of a client's examples than losses: a vector of each, from a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

__all__ = ["ExampleStatistic"]


class ExampleStatistic(Protocol):
    """A vector of length S that each example gives on its way through a module.

    Objectives average it over their examples (`Objective.mean_statistic`), private ones with
    each example's part bounded and with noise.
    """

    @property
    def dimension(self) -> int:
        """S."""

    @property
    def max_norm(self) -> float:
        """To which norm an example's vector is scaled down before noise; infinity: it is not."""

    def watching(self, module: nn.Module) -> AbstractContextManager[Callable[[], Tensor]]:
        """Look at what passes through the module while the context is open.

        Parameters
        ----------
        module : torch.nn.Module
            Called by the objective, a batch at a time.

        Returns
        -------
        context manager
            Of a function that gives the vectors of the last batch's examples, shape (B, S).
        """
