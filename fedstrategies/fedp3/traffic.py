"""What FedP3 sends, by the formula: to compare what was sent with.

    up_i   = v sum_{l in L_i} |W^l|
    down_i = v sum_{l in L_i} |W^l|
             + sum_{l not in L_i} min( v |W^l|,  v k_l + |W^l|,  v k_l + k_l ceil(log2 |W^l|) )

in bits, with v bits a value and k_l = int(p |W^l|) values kept: dense, with a bitmap, or with a
list of positions, whichever is shortest. The minimum is taken for each array, as arrays are what
is pruned; biases and normalisation parameters are dense. Ordered pruning needs no positions: p
says which block is kept. What clients tell of activations (`Calibration`) comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.pruning import GlobalPruning, LayerGroups, PruningLaw

__all__ = ["ExpectedBytes", "expected_bytes", "uplink_fraction"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedBytes:
    """Bytes of C clients in one round, without headers.

    Attributes
    ----------
    up, down : Tensor
        int64, shape (C,).
    """

    up: Tensor
    down: Tensor


def expected_bytes(
    groups: LayerGroups,
    assigned: Tensor,
    *,
    pruning: PruningLaw | None = None,
    clients: Tensor | None = None,
) -> ExpectedBytes:
    """Bytes up and down of one round, each rounded up to a whole byte.

    Parameters
    ----------
    groups : LayerGroups
        Of the model.
    assigned : Tensor
        L_i: bool, shape (C, G).
    pruning : PruningLaw, optional
        P_i; None: nothing is pruned.
    clients : Tensor, optional
        Partition ids, int64, shape (C,), whose shares; None: 0, ..., C-1.

    Raises
    ------
    ValueError
        If ``assigned`` does not have G columns, or a client has no share.
    """
    if assigned.ndim != 2 or assigned.shape[1] != len(groups):
        raise ValueError(f"L_i of shape {tuple(assigned.shape)}, expected (C, {len(groups)})")
    pruning = GlobalPruning() if pruning is None else pruning
    ids = range(len(assigned)) if clients is None else clients.tolist()
    shares = [pruning.share(client) for client in ids]
    bits = {share: _pruned_bits(groups, pruning, share) for share in dict.fromkeys(shares)}
    pruned = torch.stack([bits[share] for share in shares]) if shares else assigned.long()
    dense = 8 * groups.layout.dtype.itemsize * groups.sizes
    up = (assigned * dense).sum(dim=1)
    down = up + (~assigned * pruned).sum(dim=1)
    return ExpectedBytes(up=(up + 7) // 8, down=(down + 7) // 8)


def _pruned_bits(groups: LayerGroups, pruning: PruningLaw, keep: float) -> Tensor:
    """Bits of every group when it is pruned: int64, shape (G,)."""
    value = 8 * groups.layout.dtype.itemsize
    totals = []
    for group in groups:
        bits = 0
        for entry in group.entries:
            dense = value * entry.size
            if entry.is_weight and keep < 1.0:
                kept = value * pruning.kept(entry, keep) + pruning.index_bits(entry, keep)
                dense = min(dense, kept)
            bits += dense
        totals.append(bits)
    return torch.tensor(totals)


def uplink_fraction(groups: LayerGroups, assigned: Tensor) -> float:
    """Mean upload as a share of the model: ``(1/C) sum_i sum_{l in L_i} |W^l| / d``.

    Parameters
    ----------
    groups : LayerGroups
        Of the model.
    assigned : Tensor
        L_i: bool, shape (C, G), C >= 1.
    """
    return float((assigned * groups.sizes).sum()) / (len(assigned) * groups.dimension)
