"""Networks for images and text, for `TorchObjective` with the cross-entropy; parameters zero.

Zero is a stationary point of everything but the last bias: start elsewhere, at Glorot's point say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from fedstrategies.objectives.classifiers import zeroed

__all__ = ["cnn_classifier", "lstm_classifier"]

_KERNEL = 5
_EMBEDDING = 8


def cnn_classifier(
    classes: int, *, image: tuple[int, int, int] = (1, 28, 28), width: int, dtype: torch.dtype
) -> nn.Module:
    """Two blocks of convolution (5 x 5, same size), ReLU and 2 x 2 max-pooling, then scores.

    Parameters
    ----------
    classes : int
        K.
    image : tuple of int
        Channels, height, width of a row.
    width : int
        Channels of the first block; the second has twice as many.
    dtype : torch.dtype
        Of the parameters.

    Returns
    -------
    torch.nn.Module
        Rows (B, channels * height * width) -> scores (B, K).

    Raises
    ------
    ValueError
        If the image is smaller than 4 x 4.
    """
    return zeroed(_Convolutional(classes, image, width, dtype))


def lstm_classifier(alphabet: int, *, width: int, dtype: torch.dtype) -> nn.Module:
    """Next character: an embedding of 8, one LSTM layer, scores at every position.

    Parameters
    ----------
    alphabet : int
        V, number of characters.
    width : int
        Hidden units H.
    dtype : torch.dtype
        Of the parameters.

    Returns
    -------
    torch.nn.Module
        Characters int64 (B, S) -> scores (B, V, S), as the cross-entropy wants them.
    """
    return zeroed(_Recurrent(alphabet, width, dtype))


class _Convolutional(nn.Module):
    def __init__(
        self, classes: int, image: tuple[int, int, int], width: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        channels, height, breadth = image
        if min(height, breadth) < 4:
            raise ValueError(f"images of {height} x {breadth} are too small for two poolings")
        self.image = image
        self.first = _convolution(channels, width, dtype)
        self.second = _convolution(width, 2 * width, dtype)
        features = 2 * width * (height // 4) * (breadth // 4)
        self.output: nn.Linear = skip_init(nn.Linear, features, classes, dtype=dtype)  # type: ignore[no-untyped-call]

    def forward(self, rows: Tensor) -> Tensor:
        signal = rows.reshape(-1, *self.image)
        for convolution in (self.first, self.second):
            signal = nn.functional.max_pool2d(convolution(signal).relu(), 2)
        scores: Tensor = self.output(signal.flatten(1))
        return scores


class _Recurrent(nn.Module):
    def __init__(self, alphabet: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding: nn.Embedding = skip_init(nn.Embedding, alphabet, _EMBEDDING, dtype=dtype)  # type: ignore[no-untyped-call]
        # skip_init knows no layer that hides its arguments; on "meta" nothing is drawn either.
        hidden = nn.LSTM(_EMBEDDING, width, batch_first=True, dtype=dtype, device="meta")
        self.lstm = hidden.to_empty(device="cpu")
        self.output: nn.Linear = skip_init(nn.Linear, width, alphabet, dtype=dtype)  # type: ignore[no-untyped-call]

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(characters))
        scores: Tensor = self.output(states)
        return scores.transpose(1, 2)


def _convolution(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Conv2d:
    """A layer without torch's own initialisation, which would advance the global generator."""
    layer: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, inputs, outputs, _KERNEL, padding=_KERNEL // 2, dtype=dtype
    )
    return layer
