"""The starting point x^0 as a pure function of its text, the model's layout and the seed."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import Tensor

from fedstrategies.experiment.specs import parse_start_point
from fedstrategies.layout import Layout
from fedstrategies.random import Purpose, client_keys, uniforms

__all__ = ["start_point"]


def start_point(text: str, layout: Layout, seed: int, *, made: Tensor | None = None) -> Tensor:
    """x^0: ``zero``, ``normal:loc=..,scale=..`` (i.i.d.) or ``glorot``.

    ``glorot`` draws an entry of a weight matrix of shape (out, in) uniformly from
    ``[-a, a)``, ``a = sqrt(6 / (in + out))`` (of a kernel (out, in, h, w): in h w and out h w),
    and leaves vectors as they are made: biases at zero, the scales of normalisations at one
    (X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010).

    Parameters
    ----------
    text : str
        As ``--x0`` has it.
    layout : Layout
        Names, shapes and dtype of the model's parameters.
    seed : int
        The experiment's seed; torch's generators are neither used nor moved.
    made : Tensor, optional
        The model as it is built, shape (d,), for ``glorot``; None: zero.

    Returns
    -------
    Tensor
        Shape (d,), of the layout's dtype; drawn in float64, so the same for all dtypes up to
        rounding.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    dimension = layout.dimension
    if text == "glorot":
        bounds = _bounds(layout)
        point = bounds * (2.0 * uniforms(_key(seed), dimension)[0] - 1.0)
        if made is not None:
            point = torch.where(bounds > 0.0, point, made.to(point.dtype))
    else:
        loc, scale = parse_start_point(text)
        point = torch.full((dimension,), loc, dtype=torch.float64)
        if scale:
            point = point + scale * _standard_normal(seed, dimension)
    return point.to(layout.dtype)


def _bounds(layout: Layout) -> Tensor:
    bounds = [_bound(shape) for shape in layout.shapes]
    sizes = torch.tensor(layout.sizes)
    return torch.tensor(bounds, dtype=torch.float64).repeat_interleave(sizes)


def _bound(shape: tuple[int, ...]) -> float:
    """``sqrt(6 / (fan_in + fan_out))``; a kernel's window counts for every input and output."""
    if len(shape) < 2:
        return 0.0
    return sqrt(6.0 / ((shape[0] + shape[1]) * prod(shape[2:])))


def _standard_normal(seed: int, count: int) -> Tensor:
    """Box-Muller on keyed uniforms: the same draw whatever generator torch ships."""
    draws = uniforms(_key(seed), 2 * count)[0]
    # 1 - u is in (0, 1], which keeps the logarithm finite.
    radius = torch.sqrt(-2 * torch.log(1 - draws[:count]))
    return radius * torch.cos(2 * torch.pi * draws[count:])


def _key(seed: int) -> Tensor:
    return client_keys(seed, 0, torch.zeros(1, dtype=torch.int64), Purpose.START_POINT)
