"""Processes below another one, by /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["descendants", "send_signal", "title"]


def descendants(pid: int) -> list[int]:
    """Ids of all processes below one, by /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, below = [], [pid]
    while below:
        below = [child for parent in below for child in children.get(parent, [])]
        found += below
    return found


def title(pid: int) -> str:
    """A process's command line; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def send_signal(pid: int, number: int) -> None:
    """To a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
