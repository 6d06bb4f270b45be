"""What a table was measured on: commit, versions, processors, load."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["commit", "load", "packages", "processor", "resident_bytes"]

_ROOT = Path(__file__).parents[1]


def commit() -> str:
    """Commit of the working tree, marked where files differ from it; empty outside of git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def load() -> float:
    """Load average of the last minute: processes that ran or wanted to."""
    return os.getloadavg()[0]


def packages(names: Sequence[str]) -> dict[str, str]:
    """Versions of those of the named distributions that are installed, and Python's."""
    found = {"Python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Architecture, model where the system tells it, and the cores this process may use."""
    described = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(
            r"^model name\s*: (.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE
        )
        described = f"{named[1]} ({described})" if named else described
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{described}, {cores} cores"


def resident_bytes() -> int:
    """Largest resident size of this program so far.

    On Linux not by getrusage, which may answer with that of the process it was started from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
