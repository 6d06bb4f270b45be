"""The folder of a run: who may write there, and what is written at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.folder_lock import LOCK
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.options import ConfigError

__all__ = [
    "CHECKPOINTS",
    "FILES",
    "HISTORY",
    "PERSONAL",
    "SUMMARY",
    "TENSORBOARD",
    "Status",
    "Summary",
    "check_directory",
    "choose_directory",
    "free_directory",
    "is_empty",
    "open_directory",
    "peak_memory_bytes",
    "remove_event_files",
]

Status = Literal["done", "diverged", "failed", "interrupted"]

SUMMARY = "summary.json"
"""How a run ended: there once it has."""

HISTORY = "history.jsonl"
"""The records of a run, a line each."""

FILES = ("config.toml", HISTORY, SUMMARY, "model.safetensors", "curve.png")
"""What a run writes; ``--overwrite`` removes these, the personal models and logs, and nothing else.
"""

PERSONAL = "personal"
"""Folder of the clients' deployed models (``--save-personal``)."""

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints (``--checkpoint-every``)."""

TENSORBOARD = "tensorboard"
"""Folder of the events for TensorBoard (``--log tensorboard``)."""

_LEFT_OVER = (LOCK, ".config.toml", ".summary.json")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes
    ----------
    status : str
        ``done``, ``diverged``, ``failed`` (every client of a round failed, or an error) or
        ``interrupted``.
    algorithm, dataset, backend : str
        What was run.
    clients, dimension : int
        n and d.
    out : str
        The folder.
    last : dict
        The last record of the history.
    reached : dict
        For each target reached, the record of the round that reached it.
    fstar : float or None
        f*, if known.
    stepsize : float
        gamma of the run.
    theory, smoothness : dict
        Constants of the analysis and of f.
    local_solve : dict
        Personalised methods: how the clients' own optima x_i* were found, and what they cost in
        passes over a client's rows and in seconds.
    incidents : dict
        What happened that the method did not plan, by name: for SPPM-AS rounds that asked silent
        clients again, biased redraws and frozen cohorts.
    privacy : dict
        What the clients spent, and by which mechanism, if they are private.
    seconds : float
        Wall-clock seconds from the first record to the last.
    peak_memory_bytes : int or None
        Bytes, largest resident size of this process; Ray's workers are not counted.
    error : str or None
        Why it did not end well.
    """

    status: Status
    algorithm: str
    dataset: str
    backend: str
    clients: int
    dimension: int
    out: str
    last: HistoryRecord
    reached: dict[str, HistoryRecord] = field(default_factory=dict)
    fstar: float | None = None
    stepsize: float | None = None
    theory: dict[str, float] = field(default_factory=dict)
    smoothness: dict[str, float] = field(default_factory=dict)
    local_solve: dict[str, float | str] = field(default_factory=dict)
    incidents: dict[str, int] = field(default_factory=dict)
    privacy: dict[str, float | str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    error: str | None = None

    def to_json(self) -> str:
        """As JSON: what is unknown or infinite is left out."""
        return json.dumps(_finite(asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Summary:
        """The summary in a run's folder.

        Raises
        ------
        ValueError
            If there is none, or it is not one.
        """
        path = directory / SUMMARY
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        except (TypeError, ValueError, RecursionError):
            raise ValueError(f"{path}: not the summary of a run") from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _finite(entry) for key, entry in value.items()}
        return {key: entry for key, entry in kept.items() if entry is not None}
    return None if isinstance(value, float) and not isfinite(value) else value


def choose_directory(config: ExperimentConfig) -> Path:
    """``--out``, or the first free of ``runs/<algorithm>-<dataset>-<seed>``, -2, -3, ..."""
    if config.out is not None:
        return Path(config.out)
    return free_directory(f"{config.algorithm}-{config.dataset_name}-{config.seed}")


def free_directory(name: str) -> Path:
    """The first of ``runs/NAME``, ``runs/NAME-2``, ... that is empty or not there."""
    base = Path("runs") / name
    candidate, number = base, 1
    while candidate.exists() and not is_empty(candidate):
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def check_directory(directory: Path, *, overwrite: bool, resumable: bool = True) -> None:
    """Refuse a folder that cannot be written to, or holds something.

    ``resumable``: whether what it holds might be gone on with.

    Raises
    ------
    ConfigError
        Saying what to do.
    """
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"out: {existing} is not a folder")
    if existing == directory and not overwrite and not is_empty(directory):
        resume = "--resume to go on with the run in it, " if resumable else ""
        raise ConfigError(
            f"out: {directory} is not empty; add {resume}--overwrite to replace it, or choose "
            "another folder"
        )
    kept = directory / CHECKPOINTS
    if kept.exists() and not kept.is_dir():
        raise ConfigError(f"out: {kept} is not a folder; move it away, or choose another --out")


def open_directory(directory: Path, *, overwrite: bool, resume: bool = False) -> Path:
    """Create the folder; with ``overwrite`` remove an earlier run's files from it.

    With ``resume`` what is there stays.

    Whoever calls it holds the folder (`fedstrategies.experiment.folder_lock`), so that no other
    process's files are removed.

    Raises
    ------
    ConfigError
        As `check_directory`, or if the folder cannot be created.
    """
    from fedstrategies.checkpoint import Checkpoints  # brings torch, which `info` does without

    check_directory(directory, overwrite=overwrite or resume)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if resume:
            return directory
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
        for path in (directory / PERSONAL).glob("client-*.safetensors"):
            path.unlink()
        Checkpoints(directory / CHECKPOINTS).clear()
        remove_event_files(directory)
    except OSError as error:
        raise ConfigError(f"out: {directory} cannot be written ({error.strerror})") from None
    return directory


def remove_event_files(directory: Path) -> None:
    """Remove what an earlier run in the folder wrote for TensorBoard.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    for path in (directory / TENSORBOARD).glob("events.out.tfevents.*"):
        path.unlink()


def is_empty(directory: Path) -> bool:
    """Whether it is a folder with nothing but what a process that was killed at once left."""
    return directory.is_dir() and all(path.name in _LEFT_OVER for path in directory.iterdir())


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far, None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
