"""Draws of torch's layers (dropout), which come from torch's global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedstrategies.objectives.replica import Settings

__all__ = ["draws", "seeded_draws", "watched_draws"]

# The generators belong to the process: who draws from them keeps other threads out.
_GENERATORS = RLock()

_SEEN: WeakKeyDictionary[nn.Module, tuple[Settings, bool]] = WeakKeyDictionary()


@contextmanager
def seeded_draws(seed: int, device: torch.device) -> Iterator[None]:
    """The generators that layers on ``device`` draw from: seeded, and restored at the end."""
    # torch.manual_seed would seed every GPU, also those that are not restored.
    if device.type != "cuda":
        with _GENERATORS, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with _GENERATORS, torch.random.fork_rng(devices=[device]), torch.cuda.device(device):
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed(seed)
        yield


@contextmanager
def watched_draws(
    module: nn.Module, settings: Settings, seed: int, device: torch.device
) -> Iterator[None]:
    """`seeded_draws` around a use of ``module``, noting whether it draws at all."""
    with seeded_draws(seed, device):
        before = _states(device)
        yield
        drew = any(
            not torch.equal(old, new) for old, new in zip(before, _states(device), strict=True)
        )
        _SEEN[module] = settings, drew


def draws(module: nn.Module, settings: Settings) -> bool | None:
    """Whether ``module`` drew when it was last used with these settings; None: not used yet."""
    seen = _SEEN.get(module)
    return seen[1] if seen is not None and seen[0] == settings else None


def _states(device: torch.device) -> list[Tensor]:
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
