"""Layers without torch's own initialisation, which would advance the global generator."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import skip_init

__all__ = ["convolution", "dense", "zeroed"]

_Module = TypeVar("_Module", bound=nn.Module)


def dense(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """An affine layer, its parameters zero."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, dtype=dtype)  # type: ignore[no-untyped-call]
    return zeroed(layer)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    dtype: torch.dtype,
) -> nn.Conv2d:
    """A convolution with a square kernel, its parameters zero."""
    layer: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d,
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        bias=bias,
        dtype=dtype,
    )
    return zeroed(layer)


def zeroed(module: _Module) -> _Module:
    """The module with all its parameters zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module
