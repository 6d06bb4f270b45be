"""DSnoT and R2-DSnoT: exchanging pruned weights against kept ones, without training.

Of an output row q with pruned set P, weight r adds ``m_r = W_qr sum_x x_r / samples`` to a
sequence's output on average, so that pruning shifts it by ``epsilon = sum_{r in P} m_r``. While
``|epsilon|`` is above a threshold, a swap

    grows   the r in P with the largest  sign(epsilon) D_qr m_r / Var(x_r)^v,
    prunes  the r kept with the smallest |W_qr| ||x_r||^a D_qr  among  sign(epsilon) m_r < 0,

and ``epsilon <- epsilon + m_pruned - m_grown``. Rows stop one by one. DSnoT has D = 1, a = 1;
R2-DSnoT puts the relative importance ``D_qr = 1/||W_q:||_1 + 1/||W_:r||_1`` into one of the two
criteria, takes a = 1/2, and regularises.

The regularised decision boundary was known to this project from memory only, as terms
``gamma_1 ||W_q||_p`` and ``gamma_2 ||D_q:||_p`` added to the two criteria. Derived here: within a
row both are the same for every r, and a constant moves no argmax and no argmin. Where they can
act is the boundary itself, that is, which weights are candidates at all:

    grow   where  sign(epsilon) D_qr m_r / Var(x_r)^v + gamma_1 ||W_q||_p > 0,
    prune  where  sign(epsilon) m_r < gamma_2 ||D_q:||_p,

which for gamma = 0 is DSnoT's demand for the needed sign. That is what is implemented; it agrees
with the publication's finding that results hardly depend on the gammas.

Source: Zhang et al., "Dynamic sparse no training" (ICLR 2024) and its repository for the loop;
Yi and Richtarik, "Symmetric pruning of large language models" (2025); dissertation arXiv
2509.08233.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from fedstrategies.pruning.activations import ActivationStatistics
from fedstrategies.pruning.norms import line_norms
from fedstrategies.pruning.patterns import Pattern, SemiStructured
from fedstrategies.pruning.regrowing import Regrowing

__all__ = ["Regrown", "regrow"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Regrown:
    """A mask after its swaps.

    Attributes
    ----------
    mask : Tensor
        bool, shape (out, in): as many kept in every row, and of n:m in every group, as before.
    error_before, error : Tensor
        epsilon of each row before the first swap and after the last: shape (out,).
    swaps : Tensor
        Made in each row: int64, shape (out,).
    """

    mask: Tensor
    error_before: Tensor
    error: Tensor
    swaps: Tensor


def regrow(
    weight: Tensor,
    mask: Tensor,
    *,
    statistics: ActivationStatistics,
    pattern: Pattern,
    settings: Regrowing | None = None,
) -> Regrown:
    """Swap pruned weights against kept ones until each row's mean output is nearly the dense one.

    A weight that was swapped once is no candidate again. With an n:m pattern the weight that is
    pruned is the one of the grown weight's group with the smallest criterion, of any sign. Ties
    go to the lowest index.

    Parameters
    ----------
    weight : Tensor
        The *dense* weight, shape (out, in).
    mask : Tensor
        bool, shape (out, in): what is kept so far.
    statistics : ActivationStatistics
        Of the layer.
    pattern : Pattern
        The mask's.
    settings : Regrowing or None
        None: DSnoT's.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the sums of inputs are not known.
    """
    if mask.shape != weight.shape or weight.shape[1:] != statistics.input_sum.shape:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} with a mask of {tuple(mask.shape)} and "
            f"activations of {len(statistics.input_sum)} inputs"
        )
    if bool(torch.isnan(statistics.input_sum).any()):
        raise ValueError(
            "swaps go by the sums of a layer's inputs, which these activations lack (clients tell "
            "sums of squares alone); prune by a criterion without swaps"
        )
    return _Swapper(weight, mask, statistics, pattern, settings or Regrowing()).run()


class _Swapper:
    """The rows of one weight, swapped side by side."""

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        statistics: ActivationStatistics,
        pattern: Pattern,
        settings: Regrowing,
    ) -> None:
        dense = weight.detach().double()
        device = dense.device
        self.settings = settings
        self.group = pattern.of if isinstance(pattern, SemiStructured) else None
        self.mask = mask.clone()
        self.free = torch.ones_like(self.mask)
        self.gains = dense * statistics.input_totals.to(device)
        importance = None
        if settings.reweigh != "none" or settings.gamma_prune:
            importance = _reciprocal(line_norms(dense, 1, 1.0))[:, None] + _reciprocal(
                line_norms(dense, 0, 1.0)
            )
        variances = statistics.input_variances.to(device) ** settings.variance_power
        # A constant input has no variance; its weights are as good as candidates can be.
        self.growth = self.gains / variances.clamp(min=torch.finfo(torch.float64).tiny)
        self.growth.clamp_(-torch.finfo(torch.float64).max, torch.finfo(torch.float64).max)
        self.losses = dense.abs() * statistics.input_norms.to(device) ** settings.exponent
        if importance is not None and settings.reweigh == "grow":
            self.growth = self.growth * importance
        if importance is not None and settings.reweigh == "prune":
            self.losses = self.losses * importance
        self.grow_margin = self.prune_margin = torch.zeros(len(dense), 1).to(dense)
        if settings.gamma_grow:
            self.grow_margin = settings.gamma_grow * line_norms(dense, 1, settings.p)[:, None]
        if importance is not None and settings.gamma_prune:
            norms = line_norms(importance, 1, settings.p)
            self.prune_margin = settings.gamma_prune * norms[:, None]

    def run(self) -> Regrown:
        """Swap until every row has stopped."""
        before = (self.gains * ~self.mask).sum(1)
        error, first = before.clone(), before.sign()
        swaps = torch.zeros(len(error), dtype=torch.int64, device=error.device)
        active = torch.ones_like(self.mask[:, 0])
        for _ in range(self.settings.most_swaps(self.mask.shape[1])):
            active &= error.abs() > self.settings.threshold
            rows = active.nonzero()[:, 0]
            if not len(rows):
                break
            sign = error[rows].sign()[:, None]
            grown, can_grow = self._grown(rows, sign)
            pruned, can_prune = self._pruned(rows, sign, grown)
            after = error[rows] + self.gains[rows, pruned] - self.gains[rows, grown]
            made = can_grow & can_prune
            if self.settings.same_sign or self.group is not None:
                made &= after.sign() == first[rows]
            active[rows[~made]] = False
            rows, grown, pruned = rows[made], grown[made], pruned[made]
            self.mask[rows, grown], self.mask[rows, pruned] = True, False
            self.free[rows, grown] = self.free[rows, pruned] = False
            error[rows] = after[made]
            swaps[rows] += 1
        return Regrown(mask=self.mask, error_before=before, error=error, swaps=swaps)

    def _grown(self, rows: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        scores = sign * self.growth[rows]
        wanted = scores + self.grow_margin[rows] > 0
        candidates = ~self.mask[rows] & self.free[rows] & wanted
        return _first_largest(scores, candidates)

    def _pruned(self, rows: Tensor, sign: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
        candidates = self.mask[rows] & self.free[rows]
        if self.group is None:
            candidates &= sign * self.gains[rows] < self.prune_margin[rows]
        else:
            places = torch.arange(candidates.shape[1], device=candidates.device)
            candidates &= places // self.group == grown[:, None] // self.group
        return _first_largest(-self.losses[rows], candidates)


def _reciprocal(norms: Tensor) -> Tensor:
    return norms.clamp(min=torch.finfo(norms.dtype).tiny).reciprocal()


def _first_largest(scores: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The first candidate with the highest score of each row, and whether there is one."""
    highest = scores.masked_fill(~candidates, -inf).amax(dim=1, keepdim=True)
    at = ((scores == highest) & candidates).to(torch.uint8).argmax(dim=1)
    return at, candidates.any(dim=1)
