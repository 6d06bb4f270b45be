"""A strategy's state as a snapshot, and a strategy that goes on from one.

A snapshot has all that moves: the model, the server's state of the method, its copy of the
clients' memories, which uploads were used, what was spent of privacy, and the counters. Settings
are not in it: the caller builds the same strategy, and what can be compared is compared
(`fingerprint`). Entries of the model that are not trained are the caller's too, and compared. Draws
are functions of seed and round, so there is no generator to keep.

A strategy that goes on opens a new session. Its clients may be new, or have worked on after the
snapshot: by messages each is sent its memory with its first request, counted as recovery, so that
the run goes on bit by bit as if it had not stopped. In process nothing is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedstrategies.flower.accounts import Accounts
from fedstrategies.flower.control import MemoryCommand
from fedstrategies.flower.counters import ByteCounters
from fedstrategies.flower.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["check_snapshot", "resume", "snapshot"]

logger = logging.getLogger("flwr")

_PARTS = {
    "is",
    "asks",
    "round",
    "x",
    "memory",
    "ledger",
    "nodes",
    "accounts",
    "bytes",
    "broadcast",
    "method",
}


def snapshot(strategy: BaseStrategy) -> dict[str, object]:
    """Everything of a strategy that moves, once its first round began.

    Parameters
    ----------
    strategy : BaseStrategy
        Between two rounds.

    Returns
    -------
    dict
        A tree as `fedstrategies.snapshots` packs it. Tensors are the strategy's own: write or
        copy them before it goes on.

    Raises
    ------
    RuntimeError
        If the room has state of its own and does not say what it is.
    """
    method = strategy.method_state()
    if strategy.has_state and not method:
        raise RuntimeError(
            f"{type(strategy).__name__} has state that follows its rounds (Update.follow) and no "
            "method_state() to keep it by; define that and set_method_state()"
        )
    return {
        "is": fingerprint(strategy),
        "asks": _asks(strategy),
        "round": strategy.round,
        "x": strategy.x,
        "memory": strategy.memory,
        "ledger": strategy.ledger.snapshot(),
        "nodes": strategy.nodes.snapshot(),
        "accounts": strategy.accounts.to_bytes(),
        "bytes": asdict(strategy.bytes),
        "broadcast": None if strategy.broadcast is None else strategy.broadcast.snapshot(),
        "method": method,
    }


def resume(strategy: BaseStrategy, kept: Mapping[str, Any]) -> None:
    """Go on from a snapshot.

    Parameters
    ----------
    strategy : BaseStrategy
        Built as the one of the snapshot was, set up (`BaseStrategy.set_up`) and not begun.
    kept : mapping
        What `snapshot` gave; from now on the strategy's.

    Raises
    ------
    ValueError
        If the snapshot is of another method, model, number of clients, setting or rule of the
        clients, as far as that can be told, or not a snapshot of this version. The strategy must
        not be used then.
    """
    check_snapshot(strategy, kept)
    try:
        _adopt(strategy, kept)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"its state does not fit this version ({type(error).__name__}: {error})"
        ) from error
    if strategy.memory is None:
        logger.warning(
            "the checkpoint has no client memories (memory_budget): all of them start anew"
        )
        strategy.ledger.reset()
        strategy.forget()
    elif _asks(strategy) != kept["asks"]:
        raise ValueError(
            f"of a run that asked its clients for {kept['asks']}, this one asks for "
            f"{_asks(strategy)}; build the strategy as it was"
        )


def _adopt(strategy: BaseStrategy, kept: Mapping[str, Any]) -> None:
    if kept["x"].shape != strategy.x.shape or kept["x"].dtype != strategy.x.dtype:
        raise ValueError(f"its model has shape {tuple(kept['x'].shape)} and {kept['x'].dtype}")
    there = {name: (m.shape, m.dtype) for name, m in (kept["memory"] or {}).items()}
    here = {name: (m.shape, m.dtype) for name, m in (strategy.memory or {}).items()}
    if there != here:
        raise ValueError(f"its memories are {there}, this run's {here}")
    strategy.ledger.resume(kept["ledger"], _command(strategy))
    strategy.nodes.resume(kept["nodes"])
    strategy.adopt(x=kept["x"], memory=kept["memory"], round=kept["round"], method=kept["method"])
    strategy.accounts = Accounts.from_bytes(kept["accounts"]).joined(strategy.accounts)
    strategy.bytes = ByteCounters(**kept["bytes"])
    if strategy.broadcast is not None:
        strategy.broadcast.resume(kept["broadcast"])


def check_snapshot(strategy: BaseStrategy, kept: Mapping[str, Any]) -> None:
    """See, before anything is changed, whether a snapshot is of such a strategy.

    Raises
    ------
    ValueError
        If it is of another method, model or number of clients, or of one with other settings.
    """
    if not isinstance(kept, dict) or kept.keys() != _PARTS or not isinstance(kept["is"], dict):
        raise ValueError("not the state of a strategy as this version keeps it")
    if found := difference(kept["is"], fingerprint(strategy)):
        raise ValueError(found)


def _command(strategy: BaseStrategy) -> MemoryCommand:
    return MemoryCommand.TAKE if strategy.memory else MemoryCommand.KEEP


def _asks(strategy: BaseStrategy) -> list[list[Any]]:
    """What the next round asks for: text and constants of each group of clients."""
    plan = strategy.plan(strategy.round + 1)
    return [[one.spec, list(one.constants_of(0))] for one in plan if len(one.partition_ids)]
