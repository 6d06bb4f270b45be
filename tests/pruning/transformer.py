"""A module with blocks, small enough to be computed with by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Tower(nn.Module):
    """Embedding, three blocks, a head outside of them."""

    def __init__(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 11)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        self.to(dtype)
        self.entered = 0

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            self.entered += 1
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


def token_batches(count: int = 3, *, seed: int = 0) -> list[Tensor]:
    """Two sequences of five tokens each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 11, (2, 5), generator=generator) for _ in range(count)]
