"""Results that cannot be written: one line with the file and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

__all__ = ["WriteError", "as_write_error", "writing"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_DISCS = (*_FULL, errno.EIO, errno.EROFS, errno.EFBIG)
"""What only a file system says, so that it is known where no file is named."""


class WriteError(OSError):
    """A file of the results cannot be written; one line, with the path."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of what goes wrong in the body that it went wrong with this file.

    Raises
    ------
    WriteError
        In place of what a file system, or safetensors, raised.
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from None


def as_write_error(error: BaseException, directory: Path) -> WriteError | None:
    """What a file system said of something in a run's folder; None if it is of something else."""
    if isinstance(error, WriteError):
        return error
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        path = Path(str(error.filename))
        return _unwritten(path, error) if path.is_relative_to(directory) else None
    return _unwritten(directory, error) if error.errno in _OF_DISCS else None


def _unwritten(path: Path, error: OSError | SafetensorError) -> WriteError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return WriteError(f"{path}: cannot be written ({reason}); {_mend(error)}")


def _mend(error: OSError | SafetensorError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    # safetensors gives no number, only the system's words with one.
    full = number in _FULL or any(f"(os error {one})" in str(error) for one in _FULL)
    return f"{'make room' if full else 'mend that'}, then go on with --resume"
