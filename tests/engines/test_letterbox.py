"""Answers in memory that driver and actor share: what is read is what was written."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from ast import literal_eval
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="the extra 'simulation' is not installed")

from fedstrategies.engines import letterbox
from fedstrategies.engines.letterbox import Letter, Letterbox, Reply, Writer
from fedstrategies.engines.parcel import Parcel
from fedstrategies.engines.shares import Machine
from tests.engines.fake_ray import FakeRay, nth
from tests.engines.ray_cases import CASES, FOUR, RandK, efbv

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no files without a name"
)

SIZE = 2**17


def box_of(size: int = SIZE) -> Letterbox:
    box = Letterbox()
    box.note(size // 2)
    box.make_room()
    return box


def unnamed_files() -> list[str]:
    gc.collect()
    links = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if link.is_symlink()]
    return [name for name in opened if name.startswith("/memfd:fedstrategies-")]


def content(seed: int, count: int = 100) -> dict[str, Any]:
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return {"x": numbers, "i": torch.arange(3), "half": numbers.bfloat16(), "says": "hello"}


def assert_same(found: Any, expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert found["says"] == expected["says"]
    assert all(torch.equal(found[name], expected[name]) for name in ("x", "i", "half"))


def test_letters_of_one_round_do_not_touch_and_the_next_round_begins_anew() -> None:
    box, writer = box_of(), Writer()
    first = writer.put(content(0), Reply(first=True, address=box.address))
    second = writer.put(content(1), Reply(first=False, address=box.address))
    assert isinstance(first, Letter)
    assert isinstance(second, Letter)
    assert_same(box.read(first), content(0))
    assert_same(box.read(second), content(1))
    third = writer.put(content(2), Reply(first=True, address=box.address))
    assert isinstance(third, Letter)
    assert third.places == first.places
    assert_same(box.read(third), content(2))


def test_what_has_no_room_travels_as_before() -> None:
    box, writer = box_of(), Writer()
    large = {"x": torch.zeros(SIZE // 4 + 1)}
    found = writer.put(large, Reply(first=True, address=box.address))
    assert isinstance(found, Parcel)
    assert found.content is large
    assert isinstance(writer.put(content(0), Reply(first=True)), Parcel)
    # The numbers before the one that had no room took some; the next round has it again.
    writer.put({"a": torch.zeros(100), **large}, Reply(first=False, address=box.address))
    assert isinstance(writer.put(content(0), Reply(first=True, address=box.address)), Letter)


def test_a_box_is_made_for_large_answers_and_grows_with_them() -> None:
    box = Letterbox()
    box.note(letterbox._LEAST - 1)
    box.make_room()
    assert box.address is None
    sizes = []
    for size in (10**5, 10**5, 10**6, 10**4, 3 * 10**6):
        box.note(size)
        box.make_room()
        assert box.address is not None
        sizes.append(box.address.size)
    assert sizes == [2 * 10**5, 4 * 10**5, 2 * 10**6, 2 * 10**6, 6 * 10**6]
    box.note(2**40)
    assert box._wanted == letterbox._MOST


def test_what_was_not_read_yet_outlives_a_larger_box() -> None:
    box, writer = box_of(), Writer()
    letter = writer.put(content(0), Reply(first=True, address=box.address))
    assert isinstance(letter, Letter)
    found = box.read(letter)
    box.note(10**6)
    box.make_room()
    writer.put(content(1), Reply(first=True, address=box.address))
    assert_same(found, content(0))


def test_only_the_file_that_is_meant_is_opened() -> None:
    box, writer = box_of(), Writer()
    assert box.address is not None
    for wrong in (
        replace(box.address, name="fedstrategies-other"),
        replace(box.address, file=0),
        replace(box.address, process=2**22 + 1),
    ):
        assert isinstance(writer.put(content(0), Reply(first=True, address=wrong)), Parcel)
    assert not any(bytes(box._map or b"x"))


def test_another_process_writes_and_nothing_is_left_open() -> None:
    box = box_of()
    assert len(unnamed_files()) == 2  # one is the map's own
    code = f"""
import sys, torch
from fedstrategies.engines.letterbox import Address, Reply, Writer
letter = Writer().put(torch.arange(9.0), Reply(first=True, address={box.address!r}))
sys.stdout.write(letter.stream.hex() + " " + repr(letter.places))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stream, places = done.stdout.split(" ", 1)
    (place,) = literal_eval(places)
    found = box.read(Letter(bytes.fromhex(stream), (place,)))
    assert torch.equal(found, torch.arange(9.0))
    del box, found
    assert unnamed_files() == []


# -------------------------------------------------------------------- whole runs


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    monkeypatch.setattr(letterbox, "_LEAST", 1)
    return FakeRay(monkeypatch, Machine(cpus=8, gpus=2))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Letter]:
    """The letters that were read."""
    letters: list[Letter] = []
    plainly = Letterbox.read

    def noting(self: Letterbox, letter: Letter) -> Any:
        letters.append(letter)
        return plainly(self, letter)

    monkeypatch.setattr(Letterbox, "read", noting)
    return letters


@pytest.mark.parametrize("name", CASES)
def test_runs_by_letters_have_the_bits_of_one_process(
    ray: FakeRay, read: list[Letter], name: str
) -> None:
    case = CASES[name]()
    alone = case.run(case.grid())
    for actors in (1, 3):
        case.run(case.grid(actors)).assert_equal(alone)
    assert len(read) > 10


@pytest.mark.parametrize("time", [1, 3, 4, 5, 6, 8])
def test_a_new_actor_has_a_box_of_its_own(ray: FakeRay, read: list[Letter], time: int) -> None:
    case = efbv(compressor=RandK(k=2), sampling=FOUR, shift_init="gradient", seed=5)
    alone = case.run(case.grid())
    ray.deadly = nth("step", time, of=0)
    grid = case.grid(2)
    boxes = [shard._box for shard in grid.shards]
    case.run(grid).assert_equal(alone)
    assert [shard._box is box for shard, box in zip(grid.shards, boxes, strict=True)] == [
        False,
        True,
    ]
    assert read
