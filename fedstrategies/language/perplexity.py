"""Perplexity of a language model on a text.

The text's tokens are cut into consecutive windows; within each the model predicts every token
but the first from those before it. With N predicted tokens,

    perplexity = exp( -(1/N) sum log p(token | those before it in its window) ).

Source: the protocol of SparseGPT and Wanda on WikiText-2, which count T predictions in a window
of T tokens where T - 1 are made; here N is what is predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf

import torch
from torch import Tensor
from torch.nn import functional

from fedstrategies.language.model import LanguageModel
from fedstrategies.language.text import windows

__all__ = ["Perplexity", "perplexity"]

# exp of more overflows a float64.
_LARGEST = 709.0


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well a text is predicted.

    Attributes
    ----------
    nats : float
        Mean of ``-log p`` in natural units.
    tokens : int
        N.
    """

    nats: float
    tokens: int

    @property
    def value(self) -> float:
        """``exp(nats)``; infinite where that is too large for a number."""
        return exp(self.nats) if self.nats <= _LARGEST else inf


def perplexity(
    model: LanguageModel,
    tokens: Tensor,
    *,
    length: int,
    batch: int = 8,
    observe: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity on a token stream.

    Parameters
    ----------
    model : LanguageModel
        Its module is evaluated in the mode and on the device in which it is.
    tokens : Tensor
        int64, shape (T,).
    length : int
        Of a window, at least 2.
    batch : int
        Windows at a time.
    observe : callable, optional
        Called with windows done and windows in all.

    Raises
    ------
    DataError
        If the text is shorter than a window.
    ValueError
        If a window has no prediction.
    """
    if length < 2:
        raise ValueError(f"windows of {length} token: at least 2 are needed to predict one")
    parts = windows(tokens, length)
    device = next(model.module.parameters()).device
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(parts), batch):
            some = parts[start : start + batch].to(device)
            scores = model.scores(model.module, some)[:, :-1]
            losses = functional.cross_entropy(
                scores.flatten(0, 1).float(), some[:, 1:].flatten(), reduction="none"
            )
            total += float(losses.sum(dtype=torch.float64))
            if observe is not None:
                observe(min(start + batch, len(parts)), len(parts))
    count = len(parts) * (length - 1)
    return Perplexity(nats=total / count, tokens=count)
