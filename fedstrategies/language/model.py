"""A language model as pruning sees it: a module, text to tokens, a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["LanguageModel"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A causal language model.

    Attributes
    ----------
    name : str
        For tables.
    module : torch.nn.Module
        The network.
    encode : callable
        Text to tokens: int64, shape (T,), with what begins a text in front.
    scores : callable
        ``scores(module, tokens)``: int64 (B, T) to (B, T, vocabulary).
    context : int
        Longest sequence.
    """

    name: str
    module: nn.Module
    encode: Callable[[str], Tensor]
    scores: Callable[[nn.Module, Tensor], Tensor]
    context: int
