"""The Llama architecture: RMSNorm, rotary positions, grouped heads, SwiGLU.

Every matrix is a `torch.nn.Linear`, so that pruning and its calibration see all of them.

Source: Touvron et al., "Llama 2: open foundation and fine-tuned chat models" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Llama", "LlamaConfig"]

_ROTARY_BASE = 10_000.0
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes of a Llama.

    Attributes
    ----------
    width, hidden : int
        Of the residual stream and inside the feed-forward layers.
    layers, heads, key_heads : int
        Blocks; query heads, and heads that keys and values have.
    vocabulary, context : int
        Tokens there are, and the longest sequence.
    tied : bool
        Whether the head is the embedding.

    Raises
    ------
    ValueError
        If a size is not positive, or heads do not divide what they should.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    context: int
    tied: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "hidden", "layers", "heads", "key_heads", "vocabulary", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a size is at least 1")
        if self.width % (2 * self.heads) or self.heads % self.key_heads:
            raise ValueError(
                f"{self.heads} heads must divide a width of {self.width} into even parts, and "
                f"{self.key_heads} key heads must divide the heads"
            )

    @property
    def head_width(self) -> int:
        """Of one head."""
        return self.width // self.heads


class _Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        keys = config.key_heads * config.head_width
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, keys, bias=False)
        self.value = nn.Linear(config.width, keys, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        heads, groups = self.config.heads, self.config.key_heads
        query = _rotated(_split(self.query(x), heads), turns)
        key = _rotated(_split(self.key(x), groups), turns)
        value = _split(self.value(x), groups)
        # Consecutive query heads share a key head.
        key = key.repeat_interleave(heads // groups, dim=1)
        value = value.repeat_interleave(heads // groups, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return joined


class _FeedForward(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class _Block(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=_EPSILON)
        self.attention = _Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=_EPSILON)
        self.feed_forward = _FeedForward(config)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turns)
        fed: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return fed


class Llama(nn.Module):
    """A decoder: tokens to scores of the next token.

    Parameters
    ----------
    config : LlamaConfig
        Its sizes. Parameters are as torch initialises them.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=_EPSILON)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of what follows each token.

        Parameters
        ----------
        tokens : Tensor
            int64, shape (B, T), T at most the context.

        Returns
        -------
        Tensor
            Shape (B, T, vocabulary).

        Raises
        ------
        ValueError
            If a sequence is longer than the context.
        """
        length = tokens.shape[1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens; the context is {self.config.context}")
        x = self.embedding(tokens)
        turns = _turns(length, self.config.head_width, x)
        for block in self.blocks:
            x = block(x, turns)
        scores: Tensor = self.head(self.norm(x))
        return scores


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * w) to (B, heads, T, w)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _turns(length: int, width: int, like: Tensor) -> Tensor:
    """Cosines and sines of each position's angles: shape (2, length, width / 2)."""
    places = torch.arange(length, device=like.device, dtype=torch.float64)
    powers = torch.arange(0, width, 2, device=like.device, dtype=torch.float64) / width
    angles = torch.outer(places, _ROTARY_BASE**-powers)
    return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


def _rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Neighbouring entries as the plane's coordinates, turned by the position's angle."""
    cosine, sine = turns
    first, second = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2)
