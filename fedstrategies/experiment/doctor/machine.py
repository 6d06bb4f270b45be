"""Cores, threads and disks of this machine against what a run takes."""

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

__all__ = ["check_disk", "check_threads"]

_RECORD_BYTES = 600
"""A line of history.jsonl, generously."""
_SHARED_MEMORY = 1 << 30
_SPILL_LIMIT = 0.95
"""Ray refuses new objects on a disk fuller than this."""


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
