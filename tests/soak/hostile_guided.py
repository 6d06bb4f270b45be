"""Replies whose every part is bytes of the fuzzer's: the guided target for ``aggregate_train``."""

from __future__ import annotations

from functools import cache
from random import Random

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedstrategies.flower import AllClientsFailed, Diverged
from fedstrategies.flower.records import CONTROL, LEDGER, raw_array
from tests.soak.hostile_mutations import repaired
from tests.soak.hostile_replies import HOSTILE, METHODS, Arena
from tests.soak.hostile_targets import OVERHEAD, Target

__all__ = ["REPLY"]

_NAMES = tuple(METHODS)
_BOUND = 1e3


@cache
def _arenas() -> dict[str, Arena]:
    return {}


def _split(data: bytes) -> tuple[str, int, list[bytes]]:
    """Method, what is real about the reply, and its control fields, blob and ledger."""
    name = _NAMES[data[0] % len(_NAMES)]
    kept, rest, parts = data[1], data[2:], []
    for _ in range(2):
        length = int.from_bytes(rest[:2], "little")
        parts.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    return name, kept, [*parts, rest]


def _read(data: bytes) -> int:
    """One round, in which two clients send what the bytes say."""
    if len(data) < 3:
        return OVERHEAD
    name, kept, (control, blob, ledger) = _split(data)
    arenas = _arenas()
    arena = arenas.setdefault(name, Arena(name, max_update_norm=_BOUND))
    try:
        arena.finish(_replies(arena, kept, control, blob, ledger))
    except (AllClientsFailed, Diverged):
        del arenas[name]
        return OVERHEAD
    assert bool(arena.strategy.x.isfinite().all())
    if arena.strategy.round > 50:
        del arenas[name]
    return OVERHEAD


def _replies(arena: Arena, kept: int, control: bytes, blob: bytes, ledger: bytes) -> list[Message]:
    found = []
    for partition, reply in arena.replies().items():
        if partition not in HOSTILE or reply.has_error() or not reply.content.array_records:
            found.append(reply)
            continue
        config = dict(next(c for c in reply.content.config_records.values() if CONTROL in c))
        (record,) = reply.content.array_records.values()
        own = next((array.data for array in record.values()), b"")
        if kept & 1:
            config[CONTROL] = control
        if kept & 2:
            config[LEDGER] = ledger
        records = dict(reply.content.items())
        if kept & 4:
            # Behind as much of the real header as the fuzzer has left of it.
            head = own[: kept >> 4] if kept & 8 else b""
            records = {"arrays": ArrayRecord({"0": raw_array(repaired(head + blob))})}
            records["metrics"] = next(iter(reply.content.metric_records.values()))
        records = {k: v for k, v in records.items() if not isinstance(v, ConfigRecord)}
        content = RecordDict({**records, "config": ConfigRecord(config)})
        found.append(Message(content, metadata=reply.metadata))
    return found


def _seeds() -> list[bytes]:
    draw, found = Random(0), []
    for number, name in enumerate(_NAMES):
        arena = Arena(name)
        reply = arena.replies().get(HOSTILE[0])
        if reply is None:
            continue
        config = next(c for c in reply.content.config_records.values() if CONTROL in c)
        control, ledger = config[CONTROL], config.get(LEDGER, b"")
        assert isinstance(control, bytes)
        assert isinstance(ledger, bytes)
        (record,) = reply.content.array_records.values()
        (array,) = record.values()
        for kept in (0, 1, 2, 4, 7, draw.randrange(256)):
            blob = array.data
            found.append(
                bytes((number, kept))
                + len(control).to_bytes(2, "little")
                + control
                + len(blob).to_bytes(2, "little")
                + blob
                + ledger
            )
    return found


REPLY = Target(_read, _seeds, None, "240 len + 64 n d")
"""The target ``reply``."""
