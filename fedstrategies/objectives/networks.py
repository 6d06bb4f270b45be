"""Networks for images and text, for `TorchObjective` with the cross-entropy; parameters zero.

Zero is a stationary point of everything but the last bias: start elsewhere, at Glorot's point say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from fedstrategies.objectives.layers import convolution, dense, zeroed

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
    return _Convolutional(classes, image, width, dtype)


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
        self.first = _same_size(channels, width, dtype)
        self.second = _same_size(width, 2 * width, dtype)
        features = 2 * width * (height // 4) * (breadth // 4)
        self.output = dense(features, classes, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        signal = rows.reshape(-1, *self.image)
        for layer in (self.first, self.second):
            signal = nn.functional.max_pool2d(layer(signal).relu(), 2)
        scores: Tensor = self.output(signal.flatten(1))
        return scores


class _Recurrent(nn.Module):
    def __init__(self, alphabet: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding: nn.Embedding = skip_init(nn.Embedding, alphabet, _EMBEDDING, dtype=dtype)  # type: ignore[no-untyped-call]
        # skip_init knows no layer that hides its arguments; on "meta" nothing is drawn either.
        hidden = nn.LSTM(_EMBEDDING, width, batch_first=True, dtype=dtype, device="meta")
        self.lstm = hidden.to_empty(device="cpu")
        self.output = dense(width, alphabet, dtype)

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(characters))
        scores: Tensor = self.output(states)
        return scores.transpose(1, 2)


def _same_size(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Conv2d:
    return convolution(inputs, outputs, _KERNEL, padding=_KERNEL // 2, dtype=dtype)
