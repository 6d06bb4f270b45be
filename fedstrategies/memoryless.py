"""What the client halves of methods without client memory share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedstrategies.compressors import Floats, Payload

__all__ = ["MemorylessRule", "whole"]


class MemorylessRule:
    """Nothing to remember, dense uploads: what remains of a rule is its ``step``."""

    def initial_memory(
        self, clients: int, dimension: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def commit_(
        self,
        memory: Mapping[str, Tensor],
        payload: Payload,
        *,
        clients: Tensor | None = None,
        settlement: Tensor | None = None,
    ) -> None:
        """Nothing is remembered."""

    def template(self, dimension: int, dtype: torch.dtype) -> Payload:
        """A dense vector."""
        return whole(torch.zeros((1, dimension), dtype=dtype))


def whole(points: Tensor) -> Payload:
    """Vectors (C, d) as they are."""
    return Payload(dimension=points.shape[1], values=Floats(points))
