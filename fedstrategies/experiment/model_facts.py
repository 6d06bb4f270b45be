"""The models by name and what a configuration must know of them; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MODELS", "ModelFacts"]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What follows from a model's name alone.

    Attributes
    ----------
    text : str
        What it is and which data sets it fits.
    dtype, x0 : str
        Defaults of these options.
    convex : bool
        Whether the f_i are convex; then L, L_tilde and f* can be computed.
    layered : bool
        Whether there are weight matrices, which ``x0 glorot`` is made for.
    width : int
        Hidden units unless said otherwise; 0: there is no hidden layer.
    norm : str
        Its normalisation unless said otherwise; empty: there is none.
    images : bool
        Whether it is for images alone.
    chunk : int
        Rows that are evaluated at a time: bounds memory, and changes sums by rounding alone
        (under batch normalisation a full gradient is of batches of that size).
    """

    text: str
    dtype: str = "float32"
    x0: str = "zero"
    convex: bool = True
    layered: bool = True
    width: int = 0
    norm: str = ""
    images: bool = False
    chunk: int = 1024

    @property
    def hidden(self) -> bool:
        """Whether there is a hidden layer: zero is then a stationary point of its weights."""
        return self.width > 0


MODELS: Mapping[str, ModelFacts] = {
    "logreg": ModelFacts(
        text="logistic regression, no bias, two classes",
        dtype="float64",
        layered=False,
    ),
    "linear": ModelFacts(text="softmax regression, any number of classes"),
    "mlp": ModelFacts(
        text="one hidden layer of tanh units, any number of classes",
        x0="glorot",
        convex=False,
        width=64,
    ),
    "cnn": ModelFacts(
        text="two convolutions and a dense layer, for images",
        x0="glorot",
        convex=False,
        width=16,
        images=True,
    ),
    "lenet": ModelFacts(
        text="two valid convolutions and three dense layers (FedP3's networks), for images",
        x0="glorot",
        convex=False,
        width=1024,
        images=True,
        chunk=256,
    ),
    "resnet18": ModelFacts(
        text="residual network of eight blocks, normalised by groups or batches, for images",
        x0="glorot",
        convex=False,
        width=64,
        norm="group",
        images=True,
        chunk=128,
    ),
    "lstm": ModelFacts(
        text="next character of a text: embedding, one LSTM layer, scores",
        x0="glorot",
        convex=False,
        width=64,
    ),
}
