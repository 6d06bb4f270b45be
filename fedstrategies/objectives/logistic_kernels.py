"""Log-loss of a block of clients with equally many rows, in closed form.

With the labels folded into the rows, A_i = -diag(y_i) [a_i1; ...; a_im], the mean log-loss of
client i and its gradient are

    f_i(x) = (1/m) sum_j log(1 + exp(z_ij)),   grad f_i(x) = (1/m) A_i^T sigma(z_i),   z_i = A_i x.

On CPU numpy's matmul makes one BLAS call a client, so a client's bits do not depend on who
else is in the block (one product over all rows, or a batched product of torch, does not keep
this promise). The promise is for a fixed number of BLAS threads: see `fedstrategies.threads`.
Other devices take torch.bmm, which agrees to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Block", "block_correct", "block_values", "block_values_and_gradients"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """C clients with m rows each.

    Attributes
    ----------
    rows : Tensor
        A, shape (C, m, d): feature rows times -label; rows of zeros are padding.
    labels : Tensor
        Shape (C, m): -1 or +1, and 0 for padding.
    sizes : Tensor
        Shape (C, 1), floating: number of rows of each client without padding.
    padded : bool
        Whether any row is padding.
    """

    rows: Tensor
    labels: Tensor
    sizes: Tensor
    padded: bool

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, selection: Tensor | slice) -> Block:
        """The block of some of its clients."""
        return Block(
            rows=self.rows[selection],
            labels=self.labels[selection],
            sizes=self.sizes[selection],
            padded=self.padded,
        )


def block_values(block: Block, x: Tensor) -> Tensor:
    """Mean log-loss of each client: shape (C,); ``x`` is (d,) or (C, d)."""
    if block.rows.device.type != "cpu":
        return _mean_losses_on_device(block, _margins_on_device(block, x))
    with np.errstate(all="ignore"):
        margins = _margins(block, x)
        return torch.from_numpy(_mean_losses(block, margins, np.exp(-np.abs(margins))))


def block_values_and_gradients(block: Block, x: Tensor, gradients: Tensor) -> Tensor:
    """Mean log-loss of each client, its gradient written into ``gradients``.

    Parameters
    ----------
    block : Block
        C clients.
    x : Tensor
        Shape (d,) or (C, d).
    gradients : Tensor
        Shape (C, d), overwritten.

    Returns
    -------
    Tensor
        Shape (C,).
    """
    if block.rows.device.type != "cpu":
        margins = _margins_on_device(block, x)
        slopes = margins.sigmoid() / block.sizes
        torch.bmm(slopes.unsqueeze(1), block.rows, out=gradients.unsqueeze(1))
        return _mean_losses_on_device(block, margins)
    # A diverging run overflows here; its caller looks at the values, a warning adds nothing.
    with np.errstate(all="ignore"):
        margins_ = _margins(block, x)
        decay = np.exp(-np.abs(margins_))
        values = _mean_losses(block, margins_, decay)
        slopes_ = np.where(margins_ >= 0.0, 1.0, decay)
        slopes_ /= (1.0 + decay) * block.sizes.numpy()
        # Padding has a slope too, but meets rows of zeros.
        if block.rows.shape[1] == 1:
            np.multiply(block.rows.numpy()[:, 0], slopes_, out=gradients.numpy())
        else:
            np.matmul(slopes_[:, None], block.rows.numpy(), out=gradients.numpy()[:, None])
    return torch.from_numpy(values)


def block_correct(block: Block, x: Tensor) -> Tensor:
    """Number of rows of each client classified correctly: int64, shape (C,).

    The prediction is +1 where <a, x> > 0, else -1.
    """
    if block.rows.device.type != "cpu":
        margins = _margins_on_device(block, x)
    else:
        with np.errstate(all="ignore"):
            margins = torch.from_numpy(_margins(block, x))
    # Padding has label 0 and z = 0, hence satisfies neither condition.
    correct = (margins < 0) | ((margins == 0) & (block.labels < 0))
    return correct.sum(dim=1)


def _margins(block: Block, x: Tensor) -> np.ndarray:
    rows, point = block.rows.numpy(), x.numpy()
    margins = rows @ point if point.ndim == 1 else (rows @ point[:, :, None])[:, :, 0]
    return np.asarray(margins)


def _mean_losses(block: Block, margins: np.ndarray, decay: np.ndarray) -> np.ndarray:
    losses = np.log1p(decay)
    losses += np.maximum(margins, 0.0)
    if block.padded:
        losses *= np.abs(block.labels.numpy())
    return np.asarray(losses.sum(axis=1) / block.sizes.numpy()[:, 0])


def _margins_on_device(block: Block, x: Tensor) -> Tensor:
    points = x.expand(len(block), -1) if x.ndim == 1 else x
    return torch.bmm(block.rows, points.unsqueeze(2)).squeeze(2)


def _mean_losses_on_device(block: Block, margins: Tensor) -> Tensor:
    losses = torch.log1p(torch.exp(-margins.abs())) + margins.clamp(min=0.0)
    if block.padded:
        losses = losses * block.labels.abs()
    return losses.sum(dim=1) / block.sizes.squeeze(1)
