"""The file that the records of a run are written to, one line each, as they come."""

from __future__ import annotations

import json
import os
from io import FileIO
from pathlib import Path

from fedstrategies.durable import sync, write_all
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.writing import writing

__all__ = ["HistoryFile"]


class HistoryFile:
    """``history.jsonl`` while it is written.

    A record is with the system as soon as it is written, so that a process that dies loses none;
    on the disk it is after `settle`. All methods raise ``WriteError`` where the file system
    refuses.

    Parameters
    ----------
    path : Path
        The file; opened by `begin` or `go_on`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._named = False

    def begin(self) -> None:
        """Open an empty file."""
        with writing(self._path):
            self._file = FileIO(self._path, "w")

    def go_on(self, length: int) -> None:
        """Open the file that is there, cut to this many bytes.

        Raises
        ------
        ValueError
            If it is shorter; it stays as it is.
        """
        present = self._path.stat().st_size if self._path.exists() else 0
        if present < length:
            raise ValueError(
                f"{self._path} has {present} bytes, {length} when the checkpoint was written; "
                "put it back, or begin anew with --overwrite"
            )
        with writing(self._path):
            self._file = FileIO(self._path, "r+")
            self._file.truncate(length)
            self._file.seek(0, os.SEEK_END)

    def append(self, record: HistoryRecord) -> None:
        """Write one line, once the file is open."""
        assert self._file is not None
        with writing(self._path):
            write_all(self._file, json.dumps(record).encode() + b"\n")

    def settle(self) -> int:
        """Bring it to the disk; its length in bytes, 0 before it is open."""
        if self._file is None:
            return 0
        with writing(self._path):
            os.fsync(self._file.fileno())
            if not self._named:  # the file's name as well, which stays once it is there
                sync(self._path.parent)
                self._named = True
            return self._file.tell()

    def close(self) -> None:
        """Close it; some file systems say only now that something was not written."""
        if self._file is not None:
            with writing(self._path):
                self._file.close()
