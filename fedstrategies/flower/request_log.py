"""What private clients were asked since the last checkpoint: written before it is sent.

A server that dies takes with it what it knew of releases made after its last checkpoint; where its
nodes begin anew with it (a resumed run is a new one for Flower), nobody else knows of them. So each
attempt's requests to clients that may be private are on the disk before a message leaves. A server
that goes on counts them as unanswered, as if their replies had been lost: epsilon can come out too
large by the attempt that was cut off, and never too small.

One file for the requests after each checkpoint, ``asked-ROUND``, with one line of JSON an attempt:
partition and work (`accounts.work_of`). A line that is cut was never sent.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedstrategies.checkpoint import CheckpointError
from fedstrategies.durable import make_directory, sync, write_durably

__all__ = ["RequestLog"]

_NAME = re.compile(r"asked-(\d{9,18})")


class RequestLog:
    """The requests of one run.

    Parameters
    ----------
    directory : Path
        That of its checkpoints; made when the first line is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._after = 0

    def append(self, work: Mapping[int, int]) -> None:
        """Bring an attempt's requests to the disk.

        Parameters
        ----------
        work : mapping of int to int
            By partition; nothing is written if it is empty.

        Raises
        ------
        OSError
            If that cannot be done; then nothing may be sent.
        """
        if not work:
            return
        path = self._path(self._after)
        new = not path.exists()
        if new:
            make_directory(self.directory)
        line = json.dumps(sorted(work.items())) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "ab") as file:
            file.write(line.encode("ascii"))
            file.flush()
            os.fsync(descriptor)
        if new:
            sync(self.directory)

    def work(self, after: int) -> dict[int, int]:
        """Work asked for after a checkpoint, by partition.

        Parameters
        ----------
        after : int
            Round of the checkpoint that a run goes on from; 0: it begins anew.

        Raises
        ------
        CheckpointError
            If a file is damaged.
        OSError
            If one cannot be read.
        """
        total: Counter[int] = Counter()
        for line in self._lines(after):
            for partition, work in line:
                total[partition] += work
        return dict(total)

    def go_on(self, after: int) -> None:
        """From now on all that was asked for after a checkpoint, and what comes, is in one file.

        Raises
        ------
        CheckpointError, OSError
            As `work`, or if it cannot be written.
        """
        self._after = after
        paths = [path for round, path in self._found() if round >= after]
        if paths:
            # A cut line must not stand before the next one; nor what a course that was left asked
            # for be counted twice, or be forgotten with its checkpoints.
            text = "".join(json.dumps(line) + "\n" for line in self._lines(after))
            write_durably(self._path(after), text.encode("ascii"))
            self._remove(path for path in paths if path != self._path(after))

    def checkpointed(self, round: int, *, oldest: int) -> None:
        """A checkpoint was written; what precedes the oldest that is kept can be forgotten."""
        self._after = round
        self._remove(path for before, path in self._found() if before < oldest)

    def _path(self, after: int) -> Path:
        return self.directory / f"asked-{after:09d}"

    def _lines(self, after: int) -> list[list[list[int]]]:
        return [line for round, path in self._found() if round >= after for line in _read(path)]

    def _found(self) -> list[tuple[int, Path]]:
        if not self.directory.is_dir():
            return []
        named = ((_NAME.fullmatch(path.name), path) for path in self.directory.iterdir())
        return sorted((int(match[1]), path) for match, path in named if match)

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink(missing_ok=True)


def _read(path: Path) -> list[list[list[int]]]:
    whole, _, _cut = path.read_bytes().rpartition(b"\n")
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        if not all(
            isinstance(number, int) and number >= 0
            for line in lines
            for pair in line
            for number in pair
        ) or any(len(pair) != 2 for line in lines for pair in line):
            raise ValueError("not pairs of partition and work")
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); it says what private clients were asked, so that "
            "epsilon would be understated without it"
        ) from None
    return lines
