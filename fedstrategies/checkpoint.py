"""Checkpoints: snapshots in files that are whole or not there.

A checkpoint is one safetensors file. Its tensors are those of the snapshot; its metadata hold the
format, the snapshot's skeleton as JSON and a CRC-32 over both. It is written beside its place,
brought to the disk, and then renamed, so that a process or a machine that dies leaves the files
of earlier rounds as they are. The last two are kept: should the newest be damaged, the one before
it is there. Nobody but the owner may read them: a server that hides its clients' messages keeps
the secret of its noise there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedstrategies.durable import make_directory, sync
from fedstrategies.snapshots import Packed, pack, unpack

__all__ = ["CheckpointError", "Checkpoints", "read_checkpoint", "write_checkpoint"]

logger = logging.getLogger("flwr")

_FORMAT = "fedstrategies.checkpoint/1"
_NAME = re.compile(r"round-(\d{9,18})\.safetensors")
# What a process that was killed may have left: ours, and what safetensors makes on the way.
_LEFT = re.compile(r"\.round-\d{9,18}\.safetensors\.\d+|\.tmp\w{6}|\.asked-\d{9,18}")
_REQUESTS = re.compile(r"asked-\d{9,18}")
_KEPT = 2


class CheckpointError(ValueError):
    """A file is no checkpoint, or not one of this run; one line, with the path."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    directory : Path
        Made when the first one is written.
    """

    directory: Path

    def write(self, round: int, tree: object) -> Path:
        """Keep a snapshot of a round, and of the others the newest before it.

        What is there of later rounds belongs to a course that was left, and goes.

        Parameters
        ----------
        round : int
            t.
        tree : object
            See `fedstrategies.snapshots`.

        Raises
        ------
        OSError
            If it cannot be written; what was there before stays.
        """
        self._remove(_LEFT)
        path = self.directory / f"round-{round:09d}.safetensors"
        write_checkpoint(path, tree)
        earlier = [old for old in self.found() if old.name < path.name]
        for old in set(self.found()) - {path, *earlier[: _KEPT - 1]}:
            old.unlink(missing_ok=True)
        return path

    def found(self) -> list[Path]:
        """The files there, newest round first; whether they can be read is another question."""
        return [path for _, path in self._named()]

    def rounds(self) -> list[int]:
        """Their rounds, likewise."""
        return [round for round, _ in self._named()]

    def _named(self) -> list[tuple[int, Path]]:
        if not self.directory.is_dir():
            return []
        named = [(int(m[1]), p) for p in self.directory.iterdir() if (m := _NAME.fullmatch(p.name))]
        return sorted(named, reverse=True)

    def latest(
        self,
        *,
        classes: Iterable[type] = (),
        check: Callable[[Any], None] = lambda tree: None,
    ) -> Any:
        """The newest snapshot that can be used; one log line for each that cannot.

        Parameters
        ----------
        classes : iterable of type
            The dataclasses that may be in it.
        check : callable
            Raises ValueError for a snapshot that is not to be used.

        Raises
        ------
        CheckpointError
            If there is none.
        """
        classes, reasons = tuple(classes), list[str]()
        for path in self.found():
            try:
                return read_checkpoint(path, classes=classes, check=check)
            except CheckpointError as error:
                reasons.append(str(error))
                logger.warning("%s; the checkpoint before it is tried", error)
        why = f": {reasons[0]}" if reasons else ""
        raise CheckpointError(f"{self.directory}: no checkpoint that can be used{why}")

    def clear(self) -> None:
        """Delete them and what goes with them, and their folder if nothing else is in it."""
        for names in (_NAME, _LEFT, _REQUESTS):
            self._remove(names)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _remove(self, names: re.Pattern[str]) -> None:
        if self.directory.is_dir():
            for path in list(self.directory.iterdir()):
                if names.fullmatch(path.name):
                    path.unlink(missing_ok=True)


def write_checkpoint(path: Path, tree: object) -> None:
    """Write a snapshot as a file; see the module.

    Parameters
    ----------
    path : Path
        The file.
    tree : object
        See `fedstrategies.snapshots`.

    Raises
    ------
    OSError
        If it cannot be written; what was there before stays.
    """
    packed = pack(tree)
    tensors = _apart(packed.tensors)
    skeleton = json.dumps(packed.skeleton)
    metadata = {"format": _FORMAT, "tree": skeleton, "checksum": _checksum(skeleton, tensors)}
    make_directory(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch(mode=0o600)
        save_file(tensors, partial, metadata=metadata)
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except SafetensorError as error:
        raise OSError(EIO, str(error), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(
    path: Path,
    *,
    classes: Iterable[type] = (),
    check: Callable[[Any], None] = lambda tree: None,
) -> Any:
    """The snapshot in a file.

    Parameters
    ----------
    path : Path
        The file.
    classes : iterable of type
        The dataclasses that may be in it.
    check : callable
        Raises ValueError for a snapshot that is not to be used.

    Raises
    ------
    CheckpointError
        If the file is cut, damaged, something else, or refused by ``check``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(f"{path}: not a checkpoint of this version ({_FORMAT})")
            # Copied, as in the file they lie anywhere: how a dot product is summed, and so its
            # last bits, depend on where its vectors begin.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        skeleton = metadata.get("tree", "")
        if metadata.get("checksum") != _checksum(skeleton, tensors):
            raise CheckpointError(f"{path}: damaged, its checksum does not fit")
        tree = unpack(Packed(json.loads(skeleton), tensors), classes=classes)
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cut, damaged or no checkpoint ({reason})") from None
    try:
        check(tree)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return tree


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in memory that no two of them share, as safetensors asks."""
    seen: set[int] = set()
    apart = {}
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != own.numel() * own.element_size():
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        apart[name] = own
    return apart


def _checksum(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    found = zlib.crc32(skeleton.encode())
    for name in sorted(tensors):
        kind = f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}"
        found = zlib.crc32(kind.encode(), found)
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
