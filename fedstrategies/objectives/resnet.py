"""ResNet-18 for small images.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2016: the
blocks and stages of its 18-layer network, behind the stem that it uses for CIFAR-10, one 3 x 3
convolution without pooling. Group normalisation: Y. Wu, K. He, "Group normalization", 2018.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from fedstrategies.objectives.layers import convolution, dense

__all__ = ["NORMS", "BasicBlock", "resnet18_classifier"]

NORMS = ("group", "batch")
"""How a residual network can normalise."""

_GROUPS = 32
_SMALLEST = 8


def resnet18_classifier(
    classes: int,
    *,
    image: tuple[int, int, int] = (3, 32, 32),
    width: int = 64,
    norm: str = "group",
    dtype: torch.dtype,
) -> nn.Module:
    """Stem, four stages of two residual blocks, average pooling, scores.

    The stages have w, 2w, 4w, 8w channels, w the width; all but the first halve the resolution.
    With w = 64, three channels and ten classes there are 11,173,962 parameters, whichever the
    normalisation.

    Normalisation by groups is the default: it treats every example alone, so there are no
    statistics of a client's data to keep or to share, examples can be told apart for private
    gradients, and pruning invalidates nothing. Normalisation by the batch needs statistics for
    evaluation: see `fedstrategies.objectives.batch_norm`.

    Parameters
    ----------
    classes : int
        K.
    image : tuple of int
        Channels, height, width of a row; at least 8 x 8.
    width : int
        w, channels of the stem and the first stage.
    norm : str
        ``group``: 32 groups of channels where 32 divides their number, in general the greatest
        common divisor of both, but never groups of a single channel. ``batch``.
    dtype : torch.dtype
        Of the parameters: zero, and one for the scales of the normalisations. Start elsewhere.

    Returns
    -------
    torch.nn.Module
        Rows (B, channels * height * width) -> scores (B, K).

    Raises
    ------
    ValueError
        If the image is smaller than 8 x 8, or the normalisation is unknown.
    """
    if min(image[1:]) < _SMALLEST:
        raise ValueError(
            f"images of {image[1]} x {image[2]} are too small for four stages; "
            f"resnet18 needs {_SMALLEST} x {_SMALLEST}"
        )
    if norm not in NORMS:
        raise ValueError(f"norm: {norm!r} is not one of {', '.join(NORMS)}")
    return _ResNet18(classes, image, width, norm, dtype)


class BasicBlock(nn.Module):
    """``relu(a + F(a))``, F two 3 x 3 convolutions, each normalised, with a ReLU between them.

    Where F changes the shape, a goes through a normalised 1 x 1 convolution first.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : int
        Of the first convolution and of the shortcut's.
    norm : str
        ``group`` or ``batch``.
    dtype : torch.dtype
        Of the parameters.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, norm: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride=stride, dtype=dtype)
        self.norm1 = _normalisation(norm, outputs, dtype)
        self.conv2 = _conv3x3(outputs, outputs, stride=1, dtype=dtype)
        self.norm2 = _normalisation(norm, outputs, dtype)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride=stride, bias=False, dtype=dtype),
                _normalisation(norm, outputs, dtype),
            )

    def forward(self, signal: Tensor) -> Tensor:
        """Signals (B, inputs, h, w) -> (B, outputs, ceil(h / stride), ceil(w / stride))."""
        inside = self.norm1(self.conv1(signal)).relu()
        total: Tensor = self.norm2(self.conv2(inside)) + self.shortcut(signal)
        return total.relu()


class _ResNet18(nn.Module):
    def __init__(
        self, classes: int, image: tuple[int, int, int], width: int, norm: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.image = image
        self.stem = _conv3x3(image[0], width, stride=1, dtype=dtype)
        self.stem_norm = _normalisation(norm, width, dtype)
        self.stage1 = _stage(width, width, stride=1, norm=norm, dtype=dtype)
        self.stage2 = _stage(width, 2 * width, stride=2, norm=norm, dtype=dtype)
        self.stage3 = _stage(2 * width, 4 * width, stride=2, norm=norm, dtype=dtype)
        self.stage4 = _stage(4 * width, 8 * width, stride=2, norm=norm, dtype=dtype)
        self.output = dense(8 * width, classes, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        signal = self.stem_norm(self.stem(rows.reshape(-1, *self.image))).relu()
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            signal = stage(signal)
        scores: Tensor = self.output(signal.mean(dim=(2, 3)))
        return scores


def _stage(
    inputs: int, outputs: int, *, stride: int, norm: str, dtype: torch.dtype
) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride=stride, norm=norm, dtype=dtype),
        BasicBlock(outputs, outputs, stride=1, norm=norm, dtype=dtype),
    )


def _conv3x3(inputs: int, outputs: int, *, stride: int, dtype: torch.dtype) -> nn.Conv2d:
    """No bias: the normalisation that follows has one."""
    return convolution(inputs, outputs, 3, stride=stride, padding=1, bias=False, dtype=dtype)


def _normalisation(norm: str, channels: int, dtype: torch.dtype) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels, dtype=dtype)
    groups = gcd(_GROUPS, channels)
    # A group of one channel at a resolution of 1 x 1 would be normalised to nothing.
    return nn.GroupNorm(groups // 2 if 1 < groups == channels else groups, channels, dtype=dtype)
