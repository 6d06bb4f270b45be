"""The XML documents of a folder or a tar archive, read in memory and within bounds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import UNREADABLE, one_line, open_packed

__all__ = ["is_tar", "xml_documents"]

_DOCUMENT_LIMIT = 16 * 2**20
_ARCHIVE_LIMIT = 256 * 2**20
_MEMBER_LIMIT = 10_000
_BLOCK = 512


def is_tar(path: Path) -> bool:
    """Whether a file, once unpacked, begins as a tar archive (POSIX or GNU) does."""
    try:
        with open_packed(path) as stream:
            return stream.read(_BLOCK)[257:262] == b"ustar"
    except UNREADABLE:
        return False


def xml_documents(path: Path) -> list[tuple[str, bytes]]:
    """Name and content of every ``*.xml`` of a folder (at any depth) or a tar archive.

    In the order of their names, so that a folder and an archive of it give the same. Nothing is
    written to disk, links and hidden files are passed over, and what is not ``*.xml`` is not
    kept.

    Raises
    ------
    DataError
        If the archive is damaged or cut short, or past a bound: 16 MiB a document, 256 MiB and
        10,000 members an archive (unpacked), which keep a small file from filling the memory.
    """
    found = _in_folder(path) if path.is_dir() else _in_archive(path)
    return sorted(found, key=lambda document: PurePosixPath(document[0]).parts)


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*.xml"):
        name = path.relative_to(folder).as_posix()
        if not _wanted(name) or path.is_symlink() or not path.is_file():
            continue
        try:
            _check_size(path.stat().st_size, folder, name)
            yield name, path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _in_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        content = io.BytesIO(_unpacked(path))
        with tarfile.open(fileobj=content, mode="r:") as archive:
            for number, member in enumerate(archive):
                if number == _MEMBER_LIMIT:
                    raise DataError(f"{path}: more than {_MEMBER_LIMIT} members")
                if not member.isreg() or not _wanted(member.name):
                    continue
                _check_size(member.size, path, member.name)
                document = archive.extractfile(member)
                if document is not None:
                    yield member.name, document.read()
            # tarfile takes a damaged header, or none, for the end, which is zeros throughout.
            content.seek(-_BLOCK, io.SEEK_CUR)
            if any(content.read()):
                raise DataError(f"{path}: damaged or cut short: no end of the tar archive")
    except DataError:
        raise
    except (tarfile.TarError, ValueError, *UNREADABLE) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _unpacked(path: Path) -> bytes:
    with open_packed(path) as stream:
        content = stream.read(_ARCHIVE_LIMIT + 1)
    if len(content) > _ARCHIVE_LIMIT:
        raise DataError(
            f"{path}: unpacks to more than {_ARCHIVE_LIMIT // 2**20} MiB; "
            "expected an archive of plays"
        )
    return content


def _wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.endswith(".xml") and not any(part.startswith(".") for part in parts)


def _check_size(size: int, path: Path, name: str) -> None:
    if size > _DOCUMENT_LIMIT:
        raise DataError(
            f"{path}: {name} has {size / 2**20:.0f} MiB; the limit is "
            f"{_DOCUMENT_LIMIT // 2**20} MiB a play"
        )
