"""Replies that lie: the errors they may cause, and what they may not change for the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrategies.compressors import RandK, TopK
from fedstrategies.efbv import EF21, EFBV
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import AllClientsFailed, Diverged
from fedstrategies.flower.control import Response, Status
from fedstrategies.flower.ledger import Ledger
from fedstrategies.flower.records import CONTROL, load_memory, load_receipts
from fedstrategies.flower.update_norm import update_norms
from fedstrategies.wire import decode, decode_vector, encode_vector
from tests.flower.conftest import CLIENTS, DIMENSION, Setting
from tests.soak.hostile_replies import HOSTILE, METHODS, Arena, forged, unusable

BYSTANDER = 4
"""A partition that does not forge, and is looked at."""

Garbage = Callable[[Message, int], list[Message]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def run(name: str, rounds: int, send: Garbage, **settings: Any) -> tuple[Arena, list[object]]:
    """Rounds in which partition 2 sends what ``send`` makes of its reply; what the server saw."""
    arena, seen = Arena(name, **settings), []
    for number in range(rounds):
        replies = arena.replies()
        sent = [reply for partition, reply in replies.items() if partition != HOSTILE[0]]
        if HOSTILE[0] in replies:
            extra = send(replies[HOSTILE[0]], number)
            place = number % (len(sent) + 1)
            sent[place:place] = extra
        found, metrics = arena.strategy.aggregate_train(1, sent)
        arena.arrays = arena.arrays if found is None else found
        told = None if metrics is None else dict(metrics)
        seen.append((arena.strategy.x.clone(), told, arena.strategy.participants))
    return arena, seen


def silent(reply: Message, number: int) -> list[Message]:
    return []


def garbage(reply: Message, number: int) -> list[Message]:
    if reply.has_error() or not any(map(len, reply.content.array_records.values())):
        return []  # its memory is lost by now: it says so, as a client may
    stream = unusable(reply, Random(number))
    return [next(stream) for _ in range(6)]


# Without a copy, to say that a memory is lost starts all anew: that has a test of its own.
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"efbv-no-copy"}))
def test_garbage_changes_nothing_for_the_others(name: str) -> None:
    """Bit for bit the run in which that client is silent: model, state, metrics, other accounts."""
    (hostile, lied), (quiet_, missed) = (run(name, 3, send) for send in (garbage, silent))
    for (x, metrics, participants), (other, expected, count) in zip(lied, missed, strict=True):
        assert torch.equal(x, other)
        assert (metrics, participants) == (expected, count)
    one, two = hostile.strategy, quiet_.strategy
    for key, value in one.method_state().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two.method_state()[key]), key
    for key, memory in (one.memory or {}).items():
        assert torch.equal(memory, (two.memory or {})[key])
    assert one.incidents == two.incidents
    assert one.accounts.ledger(BYSTANDER) == two.accounts.ledger(BYSTANDER)
    assert {line.split()[1].rstrip(":") for line in one.failures} == {
        line.split()[1].rstrip(":") for line in two.failures
    }


@settings(max_examples=20, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(METHODS)), seed=st.integers(0, 2**32))
def test_forged_replies_raise_what_is_documented_and_nothing_else(name: str, seed: int) -> None:
    draw = Random(seed)
    arena = Arena(name, max_update_norm=1e3)
    for _ in range(2):
        sent = []
        for partition, reply in arena.replies().items():
            lies = partition in HOSTILE and not reply.has_error()
            lies = lies and any(map(len, reply.content.array_records.values()))
            sent += [forged(reply, draw) for _ in range(3)] if lies else [reply]
        draw.shuffle(sent)
        try:
            arena.finish(sent)
        except (AllClientsFailed, Diverged):
            return
        assert bool(arena.strategy.x.isfinite().all())


def test_an_error_without_words_is_named_all_the_same() -> None:
    arena = Arena("efbv")
    replies = arena.replies()
    blank = [
        Message(Error(code=0, reason=reason), metadata=replies[partition].metadata)
        for partition, reason in ((2, " \n\t"), (5, "\n"), (6, ""))
    ]
    others = [reply for partition, reply in replies.items() if partition not in (2, 5, 6)]
    arena.finish([*others, *blank])
    assert len(arena.strategy.failures) == 3
    assert all("no reason given" in line for line in arena.strategy.failures)


def test_a_long_traceback_is_kept_from_its_end() -> None:
    arena = Arena("efbv")
    replies = arena.replies()
    long = Error(code=0, reason="x" * 10**6 + "\nValueError: the end")
    others = [reply for partition, reply in replies.items() if partition != 2]
    arena.finish([*others, Message(long, metadata=replies[2].metadata)])
    (line,) = arena.strategy.failures
    assert line.endswith("ValueError: the end")
    assert len(line) < 21_000


@pytest.mark.parametrize("dtype", ["object", "O", "float64"])
@pytest.mark.parametrize("stype", ["numpy.ndarray", "pickle", "fedstrategies.raw"])
def test_an_array_is_never_parsed_by_anything_but_the_wire(dtype: str, stype: str) -> None:
    arena = Arena("gradient-descent")
    replies = arena.replies()
    bomb = b"cbuiltins\nexec\n(S'raise SystemError'\ntR."
    array = Array(dtype=dtype, shape=(2**40,), stype=stype, data=bomb)
    content = RecordDict(dict(replies[2].content.items()))
    content["0"] = ArrayRecord({"0": array})
    for key in [k for k, record in replies[2].content.array_records.items() if k != "0"]:
        del content[key]
    others = [reply for partition, reply in replies.items() if partition != 2]
    arena.finish([*others, Message(content, metadata=replies[2].metadata)])
    (line,) = arena.strategy.failures
    assert "partition 2" in line
    assert "malformed reply" in line


# ---------------------------------------------------------------- a client that says it is lost


def test_without_a_copy_one_client_cannot_keep_all_memories_at_zero() -> None:
    resets = []
    strategy_rounds = []

    def lost(reply: Message, number: int) -> list[Message]:
        config = next(c for c in reply.content.config_records.values() if CONTROL in c)
        known = Response.from_bytes(config[CONTROL])  # type: ignore[arg-type]
        lie = Response(
            status=Status.LOST,
            session=known.session,
            sequence=known.sequence,
            round=known.round,
            base=0,
        )
        records = {key: r for key, r in reply.content.items() if r is not config}
        config = type(config)({**config, CONTROL: lie.to_bytes()})
        return [Message(RecordDict({**records, "config": config}), metadata=reply.metadata)]

    arena = Arena("efbv-no-copy")
    forget = arena.strategy.forget
    arena.strategy.forget = lambda: (resets.append(1), forget())[1]  # type: ignore[method-assign]
    for number in range(12):
        replies = arena.replies()
        sent = [reply for partition, reply in replies.items() if partition != 2]
        arena.finish([*sent, *lost(replies[2], number)])
        strategy_rounds.append(arena.strategy.round)
    assert len(resets) == 1
    assert arena.strategy.round == 11


def test_lies_about_a_lost_memory_are_believed_ever_more_rarely() -> None:
    ledger = Ledger(2, session=1)
    believed = []
    for attempt in range(1, 201):
        ledger.open_attempt([0, 1])
        if ledger.may_reset(0):
            believed.append(attempt)
            ledger.reset()
            ledger.commit({0: ledger.accepted(0)})  # it uploads once, and lies again
    assert believed == [1, 2, 5, 12, 27, 58, 121, 184]
    assert not ledger.may_reset(1)  # it was ordered to start anew, which it can
    ledger.commit({1: ledger.accepted(1)})
    assert ledger.may_reset(1)


# ---------------------------------------------------------------- max_update_norm


def effective(arena: Arena) -> torch.Tensor:
    """Committed memory of each client, and its pending upload where the server used it."""
    rows = []
    for index, context in enumerate(arena.grid.contexts.values()):
        receipts, stored = load_receipts(context.state), load_memory(context.state)
        row = torch.zeros(1, DIMENSION).double() if stored is None else stored["h"].clone()
        pending = receipts.pending
        if pending is not None and pending.tag == arena.strategy.ledger.accepted(index):
            decode(pending.blob, dimension=DIMENSION).add_to_(row, pending.constants[0])
        rows.append(row)
    return torch.cat(rows)


def test_an_update_beyond_the_bound_is_rolled_back_and_the_identity_holds() -> None:
    free = Arena("efbv")
    norms = []
    for _ in range(6):
        replies = free.replies()
        norms.append([_norm(reply) for reply in replies.values()])
        free.finish(list(replies.values()))
    bound = sorted(norm for row in norms for norm in row)[-6]
    arena = Arena("efbv", max_update_norm=bound)
    refused = 0
    for _ in range(8):
        replies = arena.replies()
        too_large = {p for p, reply in replies.items() if _norm(reply) > bound}
        arena.finish(list(replies.values()))
        assert len(arena.strategy.failures) == len(too_large)
        for line in arena.strategy.failures:
            assert "above max_update_norm" in line
            assert f"{bound:.6g}" in line
            assert "norm" in line
        refused += len(too_large)
        assert isinstance(arena.strategy, EFBV)
        memories = effective(arena)
        assert (arena.strategy.h - memories.mean(dim=0)).abs().max() < 1e-12
        assert torch.equal(arena.strategy.memory["h"], memories)
    assert 0 < refused < 8 * CLIENTS


def _norm(reply: Message) -> float:
    (record,) = reply.content.array_records.values()
    (array,) = record.values()
    return update_norms(decode(array.data, dimension=DIMENSION), None)[0]


@pytest.mark.parametrize(
    "name", ["efbv", "diana-qsgd", "gradient-descent", "scafflix", "fedavg", "localgd", "fedp3"]
)
def test_both_paths_refuse_the_same_updates(name: str) -> None:
    """Whatever the method's update is, it is the same number alone and in a batch."""
    found = []
    bound = _middle(name)
    for fast in ("require", "never"):
        method = METHODS[name]
        setting = method.setting()
        strategy = method.strategy(
            smoothness=getattr(setting, "smoothness", None),
            fraction_evaluate=0.0,
            max_update_norm=bound,
        )
        grid = CohortGrid(setting.app, num_clients=8, fast=fast)  # type: ignore[arg-type]
        seen: list[tuple[int, int]] = []
        # Scafflix's second round moves every client further than the first moved any.
        rounds = 1 if name == "scafflix" else 4
        strategy.start(grid, setting.start, num_rounds=rounds, callbacks=[_Count(seen)])
        lines = sorted(line.split(": ", 1)[1] for line in strategy.failures)
        found.append((strategy.x, seen, strategy.bytes.uplink, lines))
    (x, *counted), (other, *expected) = found
    assert torch.equal(x, other)
    assert counted == expected
    assert any(failures for _, failures in seen)
    assert any(participants for participants, _ in seen)


class _Count:
    def __init__(self, seen: list[tuple[int, int]]) -> None:
        self.seen = seen

    def on_start(self, x: torch.Tensor) -> None:
        """Nothing."""

    def on_round(self, record: Any) -> None:
        self.seen.append((record.participants, record.failures))

    def on_end(self) -> None:
        """Nothing."""


def _middle(name: str) -> float:
    """A bound between the norms of a first round's updates."""
    arena = Arena(name)
    strategy = arena.strategy
    strategy.set_up(arena.arrays, arena.grid)
    x = strategy.x
    replies = arena.replies()
    norms = []
    for reply in replies.values():
        (record,) = reply.content.array_records.values()
        (array,) = record.values()
        upload = decode(array.data, dimension=len(x)).dense()[0]
        models = name in ("scafflix", "fedavg", "localgd", "fedp3")
        norms.append(float((upload - x if models else upload).double().norm()))
    norms.sort()
    return (norms[5] + norms[6]) / 2


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="max_update_norm"):
        EF21(compressor=TopK(k=1), stepsize=0.1, max_update_norm=bound)


def test_if_all_updates_are_too_large_the_run_ends_with_the_line() -> None:
    arena = Arena("gradient-descent", max_update_norm=1e-9)
    with pytest.raises(AllClientsFailed, match=r"norm .* above max_update_norm = 1e-09"):
        arena.finish(list(arena.replies().values()))


def test_a_huge_finite_upload_ends_the_run_without_a_bound_and_not_with_one() -> None:
    for bound in (None, 1e3):
        arena = Arena("gradient-descent", max_update_norm=bound)
        replies = arena.replies()
        (record,) = replies[2].content.array_records.values()
        (key,) = record
        size = len(decode_vector(record[key].data, dimension=DIMENSION))
        blob = encode_vector(torch.full((size,), 1.7e308, dtype=torch.float64))
        record[key] = Array(dtype="uint8", shape=(len(blob),), stype="fedstrategies.raw", data=blob)
        (other,) = replies[5].content.array_records.values()
        other[next(iter(other))] = record[key]
        if bound is None:
            with pytest.raises(Diverged):
                arena.finish(list(replies.values()))
        else:
            arena.finish(list(replies.values()))
            assert sorted(line.split()[1] for line in arena.strategy.failures) == ["2", "5"]
            assert all("norm inf" in line for line in arena.strategy.failures)


def test_a_norm_is_exact_where_it_can_be_and_alone_as_in_a_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 3000, generator=draw).double()
    payload = RandK(k=700).compress(rows, torch.arange(5))
    together = update_norms(payload, None)
    for index, norm in enumerate(together):
        assert update_norms(payload.rows(slice(index, index + 1)), None) == [norm]
        assert norm == pytest.approx(float(payload.dense()[index].norm()), rel=1e-14)


def test_settings_know_the_setting(setting: Setting) -> None:
    strategy = EF21(compressor=TopK(k=1), smoothness=setting.smoothness, max_update_norm=3)
    assert strategy.max_update_norm == 3
