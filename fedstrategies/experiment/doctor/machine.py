"""Cores, threads, memory and disks of this machine against what a run takes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedstrategies.engines.execution import available_cores
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem
from fedstrategies.experiment.progress import format_bytes

__all__ = ["available_memory", "check_disk", "check_threads"]

_RECORD_BYTES = 600
"""A line of history.jsonl, generously."""
_SHARED_MEMORY = 1 << 30
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Of control groups: limit, use, and the line of ``memory.stat`` with what can be given up."""
_SPILL_LIMIT = 0.95
"""Ray refuses new objects on a disk fuller than this."""


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


def check_threads(config: ExperimentConfig) -> Iterator[Finding]:
    """Cores, and the pools of torch and BLAS, which are pinned to one thread during a run."""
    import torch
    from threadpoolctl import threadpool_info

    cores, whole = available_cores(), os.cpu_count() or 1
    few = f", {cores} of them for this process (affinity)" if cores < whole else ""
    yield ok("cores", f"{whole}{few}")
    pools = {"torch": torch.get_num_threads()}
    for pool in threadpool_info():
        pools[str(pool["internal_api"])] = int(pool["num_threads"])
    shown = ", ".join(f"{name} {threads}" for name, threads in pools.items())
    if (
        config.backend == "flower"
        and max(pools.values()) > 1
        and "OMP_NUM_THREADS" not in os.environ
    ):
        yield note(
            "threads",
            f"{shown}; Flower's Ray actors start with as many each",
            "export OMP_NUM_THREADS=1 where client code of your own runs beside this suite's",
        )
    else:
        yield ok("threads", f"{shown}; pinned to one in each worker while clients compute")


def check_disk(config: ExperimentConfig, directory: Path, *, model_bytes: int) -> Iterator[Finding]:
    """Whether ``--out`` can be written and has room; Ray's own places where it is used.

    Parameters
    ----------
    config : ExperimentConfig
        What is run.
    directory : Path
        Where the results would go.
    model_bytes : int
        d itemsize.
    """
    folder = directory
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    copies = 1 + (config.clients if getattr(config, "save_personal", False) else 0)
    needed = copies * model_bytes + (config.rounds + 1) * _RECORD_BYTES
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        yield problem("disk", f"{folder} cannot be written", "choose another --out")
    elif free < needed:
        yield problem(
            "disk",
            f"{format_bytes(needed)} of results, {format_bytes(free)} free in {folder}",
            "choose another --out, or fewer --rounds",
        )
    else:
        yield ok(
            "disk", f"{format_bytes(free)} free for --out, about {format_bytes(needed)} needed"
        )
    if config.backend != "cohort":
        yield from _check_ray_places()


def _check_ray_places() -> Iterator[Finding]:
    scratch = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    usage = shutil.disk_usage(scratch)
    if usage.used / usage.total > _SPILL_LIMIT:
        yield note(
            "disk",
            f"{scratch}, where Ray keeps its session, is {usage.used / usage.total:.0%} full: "
            "above 95 % Ray refuses to spill objects there",
            "free some of it, or set RAY_TMPDIR",
        )
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < _SHARED_MEMORY:
        yield note(
            "shared memory",
            f"/dev/shm holds {format_bytes(shutil.disk_usage(shared).total)}: Ray's object store "
            "goes to a disk, which is slower",
            "docker run --shm-size=4g, or a larger tmpfs",
        )
