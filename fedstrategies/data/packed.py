"""Files that may be compressed: opened by their first bytes, whatever their names say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import IO, cast

__all__ = [
    "PACKED_SUFFIXES",
    "UNREADABLE",
    "find_packed",
    "one_line",
    "open_packed",
    "short_name",
]

PACKED_SUFFIXES = (".xz", ".gz", ".bz2")
"""Endings that compressed files have."""

UNREADABLE = (EOFError, OSError, lzma.LZMAError, zlib.error)
"""What reading a damaged compressed file raises."""

_LONGEST_REASON = 120


def find_packed(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, plain or with a compression's ending, plain first."""
    paths = (folder / f"{name}{suffix}" for suffix in ("", *PACKED_SUFFIXES))
    return next(filter(Path.is_file, paths), None)


def open_packed(path: Path) -> IO[bytes]:
    """The content of a file; xz, gzip and bzip2 are recognised by their first bytes."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if magic.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(path, "rb"))
    if magic == b"\xfd7zXZ\x00":
        return cast(IO[bytes], lzma.open(path, "rb"))
    return path.open("rb")


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 120 characters."""
    words = " ".join(str(error).split())
    if len(words) > _LONGEST_REASON:
        return words[: _LONGEST_REASON - 3] + "..."
    return words or type(error).__name__


def short_name(path: Path, *suffixes: str) -> str:
    """A file's name without its compression's ending, then without each of ``suffixes``."""
    name = path.name
    for suffix in (*PACKED_SUFFIXES, *suffixes):
        name = name.removesuffix(suffix)
    return name or path.name
