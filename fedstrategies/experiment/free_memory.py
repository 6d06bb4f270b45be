"""How much memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory"]

_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Of control groups: limit, use, and the line of ``memory.stat`` with what can be given up."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the system's, within all its control groups.

    A group may have a limit, and so may each group around it; what of its use is files that the
    system would give up counts as free. None where the system does not say (it does on Linux).
    ``root`` is where ``proc`` and ``sys`` lie.
    """
    free: list[int] = []
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                free.append(int(rest.split()[0]) * 1024)
    except (OSError, ValueError):
        return None
    for folder, names in _control_groups(root):
        try:
            limit, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
        except (OSError, ValueError):
            continue  # "max", or not there
        free.append(max(0, limit - used + _inactive(folder / "memory.stat", names[2])))
    return min(free) if free else None


def _inactive(stat: Path, name: str) -> int:
    """Bytes of files in memory that the system would give up before anything else."""
    try:
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines()]
        return next((int(line[1]) for line in lines if line[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _control_groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The process's group for memory and those around it, with the names of its files.

    In a container the path may be the host's, and what lies there not be seen; the outermost
    folder then is the container's own group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, kinds, path = line.split(":", 2)
        top = root / "sys/fs/cgroup"
        if not kinds:
            names = _VERSION_2
        elif "memory" in kinds.split(","):
            top, names = top / "memory", _VERSION_1
        else:
            continue
        # ".." where the group lies outside of what the container may see.
        folder = top.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
        while folder != top:
            yield folder, names
            folder = folder.parent
        yield top, names
