"""Checkpoint files are whole or refused, and a write that fails leaves what was there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedstrategies import checkpoint
from fedstrategies.checkpoint import (
    CheckpointError,
    Checkpoints,
    read_checkpoint,
    write_checkpoint,
)

TREE = {"round": 3, "x": torch.arange(4.0), "ids": (1, 2), "blob": b"\x00\xff"}


def test_a_file_gives_back_its_tree_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.safetensors"
    write_checkpoint(path, TREE)
    found = read_checkpoint(path)
    assert found["x"].equal(TREE["x"])
    assert {key: found[key] for key in ("round", "ids", "blob")} == {
        key: TREE[key] for key in ("round", "ids", "blob")
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["one.safetensors"]


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    x = torch.arange(6.0)
    write_checkpoint(tmp_path / "c", {"x": x, "again": x, "view": x[1:3], "t": x.view(2, 3).T})
    found = read_checkpoint(tmp_path / "c")
    assert found["again"].equal(x)
    assert found["view"].equal(x[1:3])
    assert found["t"].equal(x.view(2, 3).T)


def test_tensors_lie_in_memory_as_new_ones_do(tmp_path: Path) -> None:
    """Else dot products, and with them whole runs, would have other last bits."""
    write_checkpoint(tmp_path / "c", {f"{i}": torch.arange(i + 1.0) for i in range(9)})
    found = read_checkpoint(tmp_path / "c")
    assert {one.data_ptr() % 64 for one in found.values()} == {torch.zeros(3).data_ptr() % 64}


def test_every_cut_and_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_checkpoint(path, {"x": torch.arange(2.0), "n": [1]})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as refused:
            read_checkpoint(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="cut, damaged or no checkpoint"):
        read_checkpoint(tmp_path / "absent")


def test_a_write_that_dies_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    kept = Checkpoints(tmp_path)
    kept.write(1, {"x": torch.zeros(2)})

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        kept.write(2, {"x": torch.ones(2)})
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["round-000000001.safetensors"]
    assert kept.latest()["x"].equal(torch.zeros(2))


def test_a_course_that_was_left_is_deleted(tmp_path: Path) -> None:
    """After going on from an older one, the files of later rounds are of another course."""
    kept = Checkpoints(tmp_path)
    for round in (2, 4, 6, 8):
        kept.write(round, {"round": round})
    kept.write(5, {"round": 5})
    assert [path.name for path in kept.found()] == ["round-000000005.safetensors"]
    kept.write(7, {"round": 7})
    assert [read_checkpoint(path)["round"] for path in kept.found()] == [7, 5]
    kept.clear()
    assert not tmp_path.exists()


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """It has the secret of the noise in it, and the size of a checkpoint."""
    left = (".round-000000007.safetensors.4711", ".tmpAbC123", ".asked-000000000")
    kept = Checkpoints(tmp_path)
    for act in (lambda: kept.write(1, {"round": 1}), kept.clear):
        for name in left:
            (tmp_path / name).touch()
        (tmp_path / ".other").touch()
        act()
        assert not [name for name in left if (tmp_path / name).exists()]
        assert (tmp_path / ".other").exists()
