"""At most one process writes a folder of results."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedstrategies.durable import make_directory
from fedstrategies.experiment.options import ConfigError

__all__ = ["LOCK", "FolderLock"]

logger = logging.getLogger("flwr")

LOCK = ".lock"
"""The file that is held. One that a killed process left behind means nothing."""

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class FolderLock:
    """Holds a folder until `release`, or until this process is gone, however it goes.

    It is the system's lock (``flock``) on a file in the folder: what counts is whether it is
    held, not whether the file is there. Programs that this process starts do not inherit it.

    Parameters
    ----------
    directory : Path
        Made if it is not there, so that its name lasts.

    Raises
    ------
    ConfigError
        If another process, or another run of this one, holds it, or it cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        try:
            make_directory(directory)
            self._descriptor: int | None = _held(self._path)
        except OSError as error:
            raise ConfigError(f"out: {directory} cannot be written ({error.strerror})") from None

    def release(self) -> None:
        """Let others have it; what follows the first call does nothing."""
        if self._descriptor is None:
            return
        with suppress(OSError):  # a file that stays behind, or is gone, is in nobody's way
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _held(path: Path) -> int:
    """A descriptor of the file that has this name, and its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path)
            # Whoever held it before may have deleted it between the two lines above.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        logger.warning("%s: no locks on this system; let one process write there", path.parent)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise ConfigError(
                f"out: another process is writing {path.parent} (it holds {path.name} there); "
                "wait until it has ended, or choose another folder"
            ) from None
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        logger.warning(
            "%s: this file system has no locks (%s); let one process write there",
            path.parent,
            error.strerror,
        )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
