"""Small classifiers as torch modules, for `TorchObjective` with the cross-entropy."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from fedstrategies.objectives.layers import dense

__all__ = ["linear_classifier", "mlp_classifier"]


def linear_classifier(dimension: int, classes: int, *, dtype: torch.dtype) -> nn.Module:
    """Softmax (multinomial logistic) regression: ``z = W a + b``, all parameters zero.

    Parameters
    ----------
    dimension, classes : int
        Number of features d and of classes K.
    dtype : torch.dtype
        Of the parameters ``weight`` (K, d) and ``bias`` (K,).

    Returns
    -------
    torch.nn.Module
        Rows (B, d) -> scores (B, K).
    """
    return dense(dimension, classes, dtype)


def mlp_classifier(dimension: int, classes: int, *, width: int, dtype: torch.dtype) -> nn.Module:
    """A network with one hidden layer: ``z = V tanh(W a + b) + c``, all parameters zero.

    tanh, because the analysis of first-order methods asks for differentiable f_i. Zero is a
    stationary point of everything but c: start elsewhere.

    Parameters
    ----------
    dimension, classes : int
        Number of features d and of classes K.
    width : int
        Number of hidden units H.
    dtype : torch.dtype
        Of the parameters ``hidden.weight`` (H, d), ``hidden.bias`` (H,), ``output.weight``
        (K, H) and ``output.bias`` (K,).

    Returns
    -------
    torch.nn.Module
        Rows (B, d) -> scores (B, K).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        hidden=dense(dimension, width, dtype),
        activation=nn.Tanh(),
        output=dense(width, classes, dtype),
    )
    return nn.Sequential(layers)
