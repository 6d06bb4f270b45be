"""Going on with the run in a folder: which configuration it has, and whether this one is it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrategies.checkpoint import Checkpoints
from fedstrategies.durable import write_durably
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import CHECKPOINTS, is_empty
from fedstrategies.experiment.views import read_mapping, read_versions, to_toml, versions
from fedstrategies.experiment.writing import writing

if TYPE_CHECKING:
    from torch import Tensor

    from fedstrategies.flower import RoundRecord

__all__ = [
    "Beginning",
    "check_same_data",
    "check_same_run",
    "checkpoints_of",
    "kept_options",
    "warn_of_versions",
    "write_config",
]

logger = logging.getLogger("flwr")

_FREE = (
    *("rounds", "checkpoint_every", "resume", "overwrite", "quiet", "out", "log"),
    *("actors", "ray_address", "backend", "cpus_per_client", "gpus_per_client", "fast"),
    *("state_dir",),
)
"""What may differ: how long the run is, and where and on what it is computed."""

_DECIDES_BITS = ("fedstrategies", "torch", "numpy")


def kept_options(given: Mapping[str, object]) -> dict[str, object]:
    """The options of the run in ``out``, with those that are given over them.

    Parameters
    ----------
    given : mapping
        Kebab-case options, ``out`` among them.

    Raises
    ------
    ConfigError
        If there is no ``out``, or its config.toml cannot be read.
    """
    out = given.get("out")
    if not out:
        raise ConfigError("resume: --out is needed, it says which run to go on with")
    path = Path(str(out)).expanduser() / "config.toml"
    kept = read_mapping(path) if path.exists() else {}
    # How the folder was to be opened then is no property of the run.
    return {key: kept[key] for key in kept if key not in ("overwrite", "resume")} | dict(given)


def check_same_run(config: ExperimentConfig, directory: Path) -> None:
    """Refuse to go on with a run of another experiment.

    Raises
    ------
    ConfigError
        Naming the first option that differs, or saying that the folder holds something else.
    """
    path = directory / "config.toml"
    if not path.exists():
        if directory.is_dir() and not is_empty(directory):
            raise ConfigError(
                f"resume: {directory} holds no run (no config.toml); choose another folder"
            )
        return
    kept = read_mapping(path)
    if "algorithm" not in kept:
        raise ConfigError(
            f"resume: {path} is not the configuration of a run (it names no algorithm); put it "
            "back, or begin anew with --overwrite"
        )
    before = config_from_mapping(kept)
    if before.algorithm != config.algorithm:
        raise ConfigError(
            f"resume: {directory} holds a run of {before.algorithm}, not {config.algorithm}"
        )
    if config.epsilon is not None and before.rounds != config.rounds:
        raise ConfigError(
            f"resume: the noise was calibrated so that {before.rounds} rounds spend epsilon "
            f"{before.epsilon:g}; keep --rounds {before.rounds}"
        )
    for entry in fields(config):
        was, now = getattr(before, entry.name), getattr(config, entry.name)
        if entry.name not in _FREE and was != now:
            raise ConfigError(
                f"resume: {entry.name.replace('_', '-')} was {was!r} in {directory} and is "
                f"{now!r} now; give the same, or another --out"
            )


def check_same_data(config: ExperimentConfig, directory: Path, digest: str | None) -> None:
    """Refuse to go on with other rows under the same name.

    Parameters
    ----------
    config : ExperimentConfig
        The run.
    directory : Path
        Its folder.
    digest : str or None
        Of the data that are there now; see `fedstrategies.experiment.datasets`.

    Raises
    ------
    ConfigError
        If the run began with others. Where it did not say with which, nothing is refused.
    """
    path = directory / "config.toml"
    before = read_versions(path).get("data") if path.exists() else None
    if before is not None and before != digest:
        raise ConfigError(
            f"resume: {config.dataset} has changed since the run in {directory} began; put the "
            "data back as they were, or give another --out"
        )


def warn_of_versions(directory: Path) -> None:
    """Say so if the run in a folder was begun with other versions of what decides its bits."""
    path = directory / "config.toml"
    before = read_versions(path) if path.exists() else {}
    now = versions()
    changed = [
        f"{name} {before[name]} -> {now.get(name, 'none')}"
        for name in _DECIDES_BITS
        if name in before and before[name] != now.get(name)
    ]
    if changed:
        logger.warning(
            "%s: other versions than before (%s); the last bits of what follows may differ",
            directory,
            ", ".join(changed),
        )


@dataclass(frozen=True)
class Beginning:
    """A callback that acts once, when a run begins: after a checkpoint, if any, was accepted."""

    act: Callable[[], None]

    def on_start(self, x: Tensor) -> None:
        """Act."""
        self.act()

    def on_round(self, record: RoundRecord) -> None:
        """Nothing."""

    def on_end(self) -> None:
        """Nothing."""


def checkpoints_of(directory: Path) -> Path | None:
    """Where to go on from; None, which the log says, if nothing was kept yet."""
    kept = Checkpoints(directory / CHECKPOINTS)
    if kept.found():
        return kept.directory
    logger.warning("%s: no checkpoint yet; the run begins with round 1", directory)
    return None


def write_config(config: ExperimentConfig, directory: Path, *, data: str | None = None) -> None:
    """Write config.toml, whole or not at all, as that of a run which begins in an empty folder.

    Parameters
    ----------
    config : ExperimentConfig
        The run.
    directory : Path
        Its folder.
    data : str, optional
        Digest of its rows, for `check_same_data`.

    Raises
    ------
    WriteError
        If it cannot be written; what was there before stays.
    """
    path = directory / "config.toml"
    with writing(path):
        write_durably(
            path, to_toml(replace(config, resume=False, overwrite=False), data=data).encode()
        )
