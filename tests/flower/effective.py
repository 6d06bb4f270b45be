"""Effective memories: what each client's memory is once its used upload is committed."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.engines import CohortGrid
from fedstrategies.flower import BaseStrategy
from fedstrategies.flower.control import MemoryCommand
from fedstrategies.flower.records import load_memory, load_receipts
from fedstrategies.wire import decode


def effective_memories(grid: CohortGrid, strategy: BaseStrategy) -> dict[str, Tensor]:
    """From what the nodes hold themselves: shape (n, d) each, by name.

    A memory that its node lost is what the next requests will restore: the server's copy, or
    zeros after a reset. Where there is no copy and the server does not know of the loss yet, its
    row is NaN.
    """
    rows: dict[str, list[Tensor]] = {}
    if strategy.memory == {}:
        return {}
    settlements = getattr(strategy, "_means", {})
    last_used = getattr(strategy, "_last_used", {})
    rule = strategy.plan(strategy.round + 1)[0].rule
    for partition, context in enumerate(grid.contexts.values()):
        receipts, memory = load_receipts(context.state), load_memory(context.state)
        if memory is None:
            dtype, device = strategy.x.dtype, torch.device("cpu")
            memory = rule.initial_memory(1, len(strategy.x), dtype, device)
        accepted = strategy.ledger.accepted(partition)
        if receipts.pending is not None and receipts.pending.tag == accepted:
            own = grid.clients[partition].rule(receipts.pending.constants, receipts.pending.spec)
            upload = decode(receipts.pending.blob, dimension=len(strategy.x))
            own.commit_(memory, upload, settlement=settlements.get(last_used.get(partition)))
        elif receipts.committed != accepted:
            memory = {
                name: _restored(strategy, partition, name, value) for name, value in memory.items()
            }
        for name, value in memory.items():
            rows.setdefault(name, []).append(value[0])
    return {name: torch.stack(values) for name, values in rows.items()}


def _restored(strategy: BaseStrategy, partition: int, name: str, like: Tensor) -> Tensor:
    if strategy.memory is not None:
        return strategy.memory[name][partition : partition + 1]
    ordered = strategy.ledger.recovery(partition) is MemoryCommand.ZERO
    return torch.full_like(like, 0.0 if ordered else float("nan"))
