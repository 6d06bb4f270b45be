"""LeNet, as the authors of FedP3 size it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedstrategies.objectives.layers import convolution, dense

__all__ = ["lenet_classifier"]

_KERNEL = 5
_GREY, _COLOUR = (4, 12), (64, 64)


def lenet_classifier(
    classes: int,
    *,
    image: tuple[int, int, int] = (3, 32, 32),
    width: int = 1024,
    dtype: torch.dtype,
) -> nn.Module:
    """Two convolutions (5 x 5, valid), each with ReLU and 2 x 2 max-pooling; three dense layers.

    The convolutions have (64, 64) channels for images in colour and (4, 12) for those of one
    channel. Parameters:

    ========  ========================  ========================
    layer     3 x 32 x 32, 10 classes   1 x 28 x 28, 10 classes
    ========  ========================  ========================
    `conv1`   3 -> 64: 4,864            1 -> 4: 104
    `conv2`   64 -> 64: 102,464         4 -> 12: 1,212
    `fc1`     1600 -> 1024: 1,639,424   192 -> 1024: 197,632
    `fc2`     1024 -> 1024: 1,049,600   the same
    `fc3`     1024 -> 10: 10,250        the same
    together  2,806,602                 1,258,798
    ========  ========================  ========================

    The first column is the network of the authors' code. Of theirs for Fashion-MNIST only the
    number of parameters is known here. (4, 12) is derived from it: with these kernels and dense
    layers no other pair of widths gives 1,258,798.

    Parameters
    ----------
    classes : int
        K.
    image : tuple of int
        Channels, height, width of a row; at least 16 x 16.
    width : int
        Units of each of the two hidden dense layers.
    dtype : torch.dtype
        Of the parameters, all zero: start elsewhere.

    Returns
    -------
    torch.nn.Module
        Rows (B, channels * height * width) -> scores (B, K).

    Raises
    ------
    ValueError
        If the image is smaller than 16 x 16.

    Notes
    -----
    Source of the sizes: K. Yi et al., "FedP3: federated personalized and privacy-friendly network
    pruning under model heterogeneity", ICLR 2024, public code.
    """
    return _LeNet(classes, image, width, dtype)


class _LeNet(nn.Module):
    def __init__(
        self, classes: int, image: tuple[int, int, int], width: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        channels, height, breadth = image
        if min(height, breadth) < 16:
            raise ValueError(
                f"images of {height} x {breadth} are too small for two convolutions of "
                f"{_KERNEL} x {_KERNEL} and two poolings; lenet needs 16 x 16"
            )
        self.image = image
        first, second = _GREY if channels == 1 else _COLOUR
        self.conv1 = convolution(channels, first, _KERNEL, dtype=dtype)
        self.conv2 = convolution(first, second, _KERNEL, dtype=dtype)
        features = second * _side(_side(height)) * _side(_side(breadth))
        self.fc1 = dense(features, width, dtype)
        self.fc2 = dense(width, width, dtype)
        self.fc3 = dense(width, classes, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        signal = rows.reshape(-1, *self.image)
        for filters in (self.conv1, self.conv2):
            signal = nn.functional.max_pool2d(filters(signal).relu(), 2)
        signal = signal.flatten(1)
        for hidden in (self.fc1, self.fc2):
            signal = hidden(signal).relu()
        scores: Tensor = self.fc3(signal)
        return scores


def _side(length: int) -> int:
    """Of the signal after one convolution and one pooling."""
    return (length - _KERNEL + 1) // 2
