"""Draws of torch's layers (dropout), which come from torch's global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded_draws"]


@contextmanager
def seeded_draws(seed: int, device: torch.device) -> Iterator[None]:
    """The generators that layers on ``device`` draw from: seeded, and restored at the end."""
    # torch.manual_seed would seed every GPU, also those that are not restored.
    if device.type != "cuda":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng(devices=[device]), torch.cuda.device(device):
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed(seed)
        yield
