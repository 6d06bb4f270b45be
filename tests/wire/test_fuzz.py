"""Mutated messages: the quick form of ``python -m tests.soak.hostile``."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from random import Random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedstrategies.wire import WireError, decode, encode
from tests.soak import fuzz
from tests.soak.hostile_memory import peak_of, traced
from tests.soak.hostile_mutations import mutated, repaired
from tests.soak.hostile_targets import DIMENSIONS, TARGETS, frame_bound

INPUTS = {"state-head": 40, "checkpoint": 40}


@pytest.fixture(name="measured")
def _measured() -> Iterator[None]:
    with traced():
        yield


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutated_bytes_raise_what_is_documented_and_nothing_else(name: str) -> None:
    target, draw = TARGETS[name], Random(0)
    seeds = target.seeds()
    for seed in seeds:
        target.call(seed)
    for _ in range(INPUTS.get(name, 200)):
        target.call(mutated(draw.choice(seeds), draw, seeds, target.repair))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    body=st.binary(max_size=60), dimension=st.sampled_from(DIMENSIONS), codec=st.integers(0, 255)
)
@example(body=b"", dimension=1, codec=0)
def test_any_body_behind_a_sound_header_is_refused_or_is_the_one_encoding(
    body: bytes, dimension: int, codec: int
) -> None:
    content = b"FS\x01" + bytes((codec,)) + body
    blob = content + zlib.crc32(content).to_bytes(4, "little")
    try:
        payload = decode(blob, dimension=dimension)
    except WireError as error:
        assert error.offset is None or 0 <= error.offset <= len(blob)  # noqa: PT017
    else:
        assert encode(payload) == blob
        assert payload.is_finite()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_a_frame_with_one_flipped_bit_is_refused_until_its_checksum_fits_again(seed: int) -> None:
    draw = Random(seed)
    seeds = TARGETS["frame"].seeds()
    whole = draw.choice(seeds)
    dimension, blob = DIMENSIONS[whole[0]], bytearray(whole[1:])
    blob[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
    with pytest.raises(WireError):
        decode(bytes(blob), dimension=dimension)
    try:
        payload = decode(repaired(bytes(blob)), dimension=dimension)
    except WireError:
        return
    assert encode(payload) == repaired(bytes(blob))


@pytest.mark.parametrize("codec", [0x00, 0x01, 0x08, 0x10, 0x20, 0x40, 0x41, 0x80, 0x88, 0xA0])
@pytest.mark.parametrize(
    "sizes",
    [
        b"\xff\xff\xff\xff\x7f" * 2,  # d = k = 2^35 - 1
        b"\x80\x80\x80\x80\x80\x20",  # d = 2^40
        b"\x0c\x80\x80\x80\x80\x80\x20",  # d = 12, k = 2^40
        b"\x0c\xff\xff\xff\xff\x7f",  # d = 12, k = 2^35 - 1
    ],
)
def test_a_declared_size_allocates_nothing(codec: int, sizes: bytes, measured: None) -> None:
    content = b"FS\x01" + bytes((codec,)) + sizes + b"\x00" * 40
    blob = content + zlib.crc32(content).to_bytes(4, "little")

    def call() -> None:
        for dimension in (12, 2**35 - 1):
            with pytest.raises(WireError):
                decode(blob, dimension=dimension)

    assert peak_of(call) < 256 * 1024


def test_memory_stays_below_the_bound(measured: None) -> None:
    draw, seeds = Random(5), TARGETS["frame"].seeds()
    worst = 0.0
    for _ in range(30):
        data = mutated(draw.choice(seeds), draw, seeds, lambda data: data[:1] + repaired(data[1:]))
        if not data:
            continue
        dimension = DIMENSIONS[data[0] % len(DIMENSIONS)]

        def call(data: bytes = data, dimension: int = dimension) -> None:
            try:
                decode(data[1:], dimension=dimension)
            except WireError:
                return

        worst = max(worst, peak_of(call) / frame_bound(len(data), dimension))
    assert 0.0 < worst < 1.0


def test_what_torch_makes_is_seen(measured: None) -> None:
    assert peak_of(lambda: torch.zeros(10**6)) >= 4 * 10**6


def test_mutations_are_a_function_of_the_seed() -> None:
    seeds = TARGETS["frame"].seeds()
    one, other = (
        [mutated(seeds[3], Random(i), seeds, repaired) for i in range(50)] for _ in range(2)
    )
    assert one == other
    assert len(set(one)) > 40


def test_without_atheris_the_guided_program_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        fuzz.main(["fuzz", "frame"])
