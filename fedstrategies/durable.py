"""Files that last: what a machine that loses its power finds again.

A file is on the disk once it was synchronised itself, and found there once the folder that holds
its name was, and so on upwards for folders that are new.
"""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path

__all__ = ["make_directory", "sync", "write_all", "write_durably"]


def sync(path: Path) -> None:
    """Bring a file's content to the disk; a folder's: the names in it.

    Raises
    ------
    OSError
        If it cannot be brought there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know it of files alone: their servers look after names.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a folder and those above it, so that their names last.

    Parameters
    ----------
    path : Path
        May be there already: another process may have made it a moment ago.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    path = path.absolute()
    made = [one for one in path.parents if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in (path, *made):
        try:
            sync(one.parent)
        except PermissionError:  # where we may pass but not look, and therefore made nothing
            if one in made:
                raise


def write_all(file: FileIO, content: bytes) -> None:
    """Write to a raw file, which may take less at a time than it is given.

    Raises
    ------
    OSError
        If something of it cannot be written.
    """
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def write_durably(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; once this returns, it lasts.

    It is written beside its place (``.NAME``), so that one process at a time may write it.

    Raises
    ------
    OSError
        If it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}")
    try:
        with FileIO(partial, "w") as file:
            write_all(file, content)
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)
