"""The models that the mathematics can work on."""

from __future__ import annotations

import torch

from fedstrategies.layout import Layout

__all__ = ["require_numbers"]

_COMPUTED = (torch.float32, torch.float64)


def require_numbers(layout: Layout) -> None:
    """Refuse a model without numbers, or in a type that operators and memories do not have.

    Raises
    ------
    ValueError
        If d = 0, or the type is not float32 or float64.
    """
    if layout.dimension == 0:
        raise ValueError(
            f"there is nothing to train: {', '.join(layout.names)} have no numbers at all"
        )
    if layout.dtype not in _COMPUTED:
        raise ValueError(
            f"the model is in {layout.dtype}, and updates are computed in float32 or float64; "
            "send model.float(), train in half precision on the clients, and let "
            "'cast:float16' or 'cast:bfloat16' make uploads as small"
        )
