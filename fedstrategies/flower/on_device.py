"""A client's step on the device of its objective, where that is not the CPU.

The server, the memories and whatever travels are on the CPU. A step takes the model and the
memories of those who work to the device, stays there for all local steps, compresses there, and
brings back the messages: of a compressed one k items, not d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower.rules import ClientRule
from fedstrategies.objectives import BatchedObjective

__all__ = ["step_on_device"]


def step_on_device(
    rule: ClientRule,
    memory: Mapping[str, Tensor],
    x: Tensor,
    objective: BatchedObjective,
    keys: Tensor,
    *,
    clients: Tensor | None = None,
) -> tuple[Payload, Tensor]:
    """``rule.step`` with everything of length d on ``objective.device``.

    Keys and row numbers stay on the CPU: draws are cheap there, and no kernel waits for them.

    Parameters
    ----------
    rule, memory, x, objective, keys, clients
        See `fedstrategies.flower.ClientRule`; on the CPU.

    Returns
    -------
    tuple
        Messages and losses, on the CPU.
    """
    device = objective.device
    if device.type == "cpu":
        return rule.step(memory, x, objective, keys, clients=clients)
    if clients is None:
        there = {name: value.to(device) for name, value in memory.items()}
    else:
        there = {name: _moved(value, device) for name, value in memory.items()}
    payload, losses = rule.step(there, x.to(device), objective, keys, clients=clients)
    return payload.cpu(), losses.cpu()


def _moved(memory: Tensor, device: torch.device) -> Tensor:
    # Rules read a memory in one way, by the rows of those who take part.
    return cast(Tensor, _Rows(memory, device))


@dataclass(frozen=True)
class _Rows:
    """A memory (n, d) of which the rows that are asked for are moved to a device."""

    memory: Tensor
    device: torch.device

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.memory[rows].to(self.device)
