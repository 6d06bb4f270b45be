"""Leading blocks of weights: narrower layers, nested in one another.

Source: Horvath et al., "FjORD: fair and accurate federated learning under heterogeneous targets
with ordered dropout" (NeurIPS 2021).
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from fedstrategies.pruning.groups import Entry

__all__ = ["block_shape", "leading_blocks"]


def block_shape(entry: Entry, ratio: float) -> tuple[int, ...]:
    """Shape of the leading block: ``ceil(u d_a)`` of every axis a that is cut.

    Along an axis of several parts (an LSTM's gates) it is that of each part, times their number.

    Parameters
    ----------
    entry : Entry
        A weight.
    ratio : float
        u in (0, 1].
    """
    shape = list(entry.shape)
    for axis, parts in entry.cut_axes:
        shape[axis] = parts * ceil(ratio * (shape[axis] // parts))
    return tuple(shape)


def leading_blocks(entry: Entry, ratios: Tensor) -> Tensor:
    """Masks of the leading blocks of one weight.

    Parameters
    ----------
    entry : Entry
        A weight of shape (d_1, d_2, ...).
    ratios : Tensor
        u_i in (0, 1], float64, shape (C,).

    Returns
    -------
    Tensor
        bool, shape (C, d_1 d_2 ...): True inside the block.
    """
    inside = torch.ones((len(ratios), *entry.shape), dtype=torch.bool, device=ratios.device)
    for axis, parts in entry.cut_axes:
        part = entry.shape[axis] // parts
        place = torch.arange(entry.shape[axis], device=ratios.device) % part
        kept = place < torch.ceil(ratios * part).unsqueeze(1)
        shape = [len(ratios)] + [1] * len(entry.shape)
        shape[1 + axis] = entry.shape[axis]
        inside &= kept.view(shape)
    return inside.view(len(ratios), -1)
