"""Client state in a directory, where it is too large to travel with messages.

Flower's simulation runtime ships a node's whole ``context.state`` to an actor and back with
every message, and a SuperNode keeps it in memory alone. A `DirectoryStore` keeps it in files.

Flower forgets what a client did to its state if the client raises. Files do not forget, so the
store commits by itself: a client works on records that were read, and when it has returned,
those it changed are written. Every record has two places. The new one goes to the place that
holds nothing of worth, and then a small file, the *head*, is replaced at one stroke; it names the
place, length and checksum of every record. So there is no moment at which memory and receipts in
the files belong to different uploads. A process that dies before that stroke has changed nothing;
after it, to the server its reply was lost, and the receipts cover that (docs/reliability.md).
Whatever the head's checksums do not recognise is not used: the client then answers *lost*.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from flwr.app import Context, RecordDict

from fedstrategies.durable import sync, write_all
from fedstrategies.flower.record_files import (
    Record,
    checksum,
    consists_of,
    leaves_of,
    pack,
    read,
)
from fedstrategies.flower.records import CONTROL, MEMORY
from fedstrategies.flower.state_head import HEAD, Head, Place, packed_head, read_head

__all__ = ["DirectoryStore", "StateStore"]

logger = logging.getLogger("flwr")


class StateStore(Protocol):
    """Where clients keep what must last; without one it is ``context.state``."""

    def opened(self, context: Context) -> AbstractContextManager[Context]:
        """A context with a node's kept state, for the handling of one message.

        What the body puts into its ``state``, or changes in a record there, lasts if the body
        does not raise. The state of ``context`` itself stays as it is.
        """


@dataclass(frozen=True)
class DirectoryStore:
    """Client states in a directory, one folder a run and a partition.

    Pass it to `fedstrategies.client_app`. It may be on a file system that several machines
    share, and serves any number of processes without locks, as long as a partition is at work in
    one of them at a time: so it is if every node has a partition of its own. If two do work for
    one partition at once, the checksums of the last of them hold, and the worst that comes of it
    is an answer *lost*. Runs do not meet: Flower's ``run_id`` is part of the path. Folders of
    runs that are over may be deleted (`forget`), others too: their clients answer *lost*.

    Takes twice the size of the state on disk. Memories are files that ``safetensors`` reads.

    Parameters
    ----------
    path : str or Path
        The directory; made when the first client keeps something.
    durable : bool
        Whether a reply leaves only when its state has reached the disk itself. A process that
        dies loses nothing without it; if a machine does, clients may come back to older states
        or to none, and answer *lost*.

    Examples
    --------
    After the example of `EFBVClient`:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from fedstrategies import DirectoryStore
    >>> folder = TemporaryDirectory()
    >>> app = client_app(client_fn, store=DirectoryStore(folder.name))
    >>> _ = EF21(compressor=TopK(k=1), stepsize=0.5).start(CohortGrid(app, num_clients=2), x0)
    >>> sorted(path.name for path in Path(folder.name).glob("run-*/*"))
    ['partition-000000', 'partition-000001']
    >>> folder.cleanup()
    """

    path: str | Path
    durable: bool = False

    def __post_init__(self) -> None:
        # Actors may have another working directory.
        object.__setattr__(self, "path", Path(self.path).expanduser().absolute())

    @contextmanager
    def opened(self, context: Context) -> Iterator[Context]:
        """See `StateStore.opened`.

        Raises
        ------
        OSError
            If the state cannot be written; what was kept before stays in force.
        """
        folder = self.folder(context)
        head = read_head(folder)
        kept, broken = _read_records(folder, head)
        before = {key: leaves_of(record) for key, record in kept.items()}
        own = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=context.node_config,
            state=RecordDict(kept),
            run_config=context.run_config,
        )
        yield own
        after: dict[str, Record] = dict(own.state.items())
        same = {key for key in after.keys() & before.keys() if consists_of(after[key], before[key])}
        if broken or after.keys() != before.keys() or len(same) < len(after):
            self._commit(folder, head, after, same)

    def folder(self, context: Context) -> Path:
        """Of a node; by its id where it has no ``partition-id``."""
        partition = context.node_config.get("partition-id")
        name = f"node-{context.node_id}" if partition is None else f"partition-{int(partition):06d}"
        return self._run(context.run_id) / name

    def forget(self, run_id: int) -> None:
        """Delete the states of a run."""
        run = self._run(run_id)
        if run.exists():
            shutil.rmtree(run)
        root = Path(self.path)
        if root.exists() and not any(root.iterdir()):
            root.rmdir()

    def _run(self, run_id: int) -> Path:
        return Path(self.path) / f"run-{run_id}"

    def _commit(
        self, folder: Path, head: Head, after: Mapping[str, Record], same: Collection[str]
    ) -> None:
        """Write the records that are not the ``same`` as before, and then the head."""
        made = [] if head else [one for one in folder.parents if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        places = {}
        for key, record in after.items():
            known = head.get(key)
            if known is not None and key in same:
                places[key] = known
                continue
            parts = pack(record)
            side = 0 if known is None else 1 - known.side
            size = sum(map(len, parts))
            places[key] = Place(side=side, size=size, checksum=checksum(parts))
            # Over the old contents, not truncated first: their pages are there already, and
            # new ones cost ten times what writing into them does.
            self._write(_file(folder, key, side), parts, size)
        partial = folder / f".{HEAD}.{os.getpid()}"
        packed = packed_head(folder, places)
        try:
            self._write(partial, [packed], len(packed))
            os.replace(partial, folder / HEAD)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if self.durable:
            sync(folder)
            if not head:
                self._sync_parents(folder, made)
        for key in head.keys() - places.keys():
            for side in (0, 1):
                _file(folder, key, side).unlink(missing_ok=True)

    def _sync_parents(self, folder: Path, made: Sequence[Path]) -> None:
        """Make the names of folders last that are new: ``made``, or by others a moment ago."""
        root = Path(self.path)
        for one in dict.fromkeys((folder, folder.parent, root, *made)):
            try:
                sync(one.parent)
            except PermissionError:  # above the directory, where nothing need be ours
                if one != root and one not in root.parents:
                    raise

    def _write(self, path: Path, parts: list[bytes], size: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            for part in parts:
                write_all(file, part)
            file.truncate(size)
            if self.durable:
                os.fsync(descriptor)


def _file(folder: Path, key: str, side: int) -> Path:
    return folder / f"{quote(key, safe='')}.{side}.safetensors"


def _read_records(folder: Path, head: Head) -> tuple[dict[str, Record], bool]:
    """The records of a head, and whether some are not to be had.

    Where any is lost, memory and receipts are both left out: one of them without the other, or
    receipts of an upload without the record that paid for it, would be worse than neither.
    """
    records: dict[str, Record] = {}
    for key, place in head.items():
        path = _file(folder, key, place.side)
        try:
            if os.path.getsize(path) != place.size:
                raise ValueError("it is cut, or not the file that was written")
            with open(path, "rb", buffering=0) as file:
                records[key] = read(file, size=place.size, checked=place.checksum)
        except FileNotFoundError:
            logger.warning("%s: the file is gone; the client's memory is lost", path)
        except ValueError as error:
            logger.warning("%s: %s; the client's memory is lost", path, error)
    broken = len(records) < len(head)
    if broken:
        records = {key: one for key, one in records.items() if key not in (CONTROL, MEMORY)}
    return records, broken
