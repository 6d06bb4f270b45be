"""The torch modules of ``--model`` by name."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from fedstrategies.data import SHAKESPEARE_ALPHABET
from fedstrategies.experiment.model_facts import MODELS
from fedstrategies.experiment.options import ConfigError
from fedstrategies.objectives import (
    cnn_classifier,
    lenet_classifier,
    linear_classifier,
    lstm_classifier,
    mlp_classifier,
    resnet18_classifier,
)

__all__ = ["build_module"]


def build_module(
    model: str,
    *,
    image: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: int | None = None,
    norm: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module that ``--model`` names.

    Parameters
    ----------
    model : str
        One of `MODELS` but ``logreg``, which is no module.
    image : tuple of int
        Channels, height and width of a row; for ``linear`` and ``mlp`` only their product counts,
        for ``lstm`` nothing.
    classes : int
        K; ``lstm`` has the characters of its alphabet.
    width, norm : optional
        As the options; None: the model's own.
    dtype : torch.dtype
        Of the parameters.

    Returns
    -------
    torch.nn.Module
        As its maker in `fedstrategies.objectives` describes it.

    Raises
    ------
    ConfigError
        If there is no such module.
    ValueError
        If the images are too small.
    """
    facts = MODELS.get(model)
    if facts is None or model == "logreg":
        known = ", ".join(name for name in MODELS if name != "logreg")
        raise ConfigError(f"model: {model!r} is none of the networks {known}")
    width, norm = width or facts.width, norm or facts.norm
    match model:
        case "lstm":
            return lstm_classifier(len(SHAKESPEARE_ALPHABET), width=width, dtype=dtype)
        case "linear":
            return linear_classifier(prod(image), classes, dtype=dtype)
        case "mlp":
            return mlp_classifier(prod(image), classes, width=width, dtype=dtype)
        case "cnn":
            return cnn_classifier(classes, image=image, width=width, dtype=dtype)
        case "lenet":
            return lenet_classifier(classes, image=image, width=width, dtype=dtype)
    return resnet18_classifier(classes, image=image, width=width, norm=norm, dtype=dtype)
