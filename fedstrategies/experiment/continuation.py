"""Going on with the run in a folder: which configuration it has, and whether this one is it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from fedstrategies.checkpoint import Checkpoints
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import CHECKPOINTS
from fedstrategies.experiment.views import read_mapping, to_toml

__all__ = ["check_same_run", "checkpoints_of", "kept_options", "write_config"]

logger = logging.getLogger("flwr")

_FREE = (
    *("rounds", "checkpoint_every", "resume", "overwrite", "quiet", "out"),
    *("actors", "ray_address", "backend", "cpus_per_client", "gpus_per_client", "fast"),
    *("state_dir",),
)
"""What may differ: how long the run is, and where and on what it is computed."""


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
    return {**read_mapping(path), **given} if path.exists() else dict(given)


def check_same_run(config: ExperimentConfig, directory: Path) -> None:
    """Refuse to go on with a run of another experiment.

    Raises
    ------
    ConfigError
        Naming the first option that differs, or saying that the folder holds something else.
    """
    path = directory / "config.toml"
    if not path.exists():
        if directory.is_dir() and any(directory.iterdir()):
            raise ConfigError(
                f"resume: {directory} holds no run (no config.toml); choose another folder"
            )
        return
    before = config_from_mapping(read_mapping(path))
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


def checkpoints_of(directory: Path) -> Path | None:
    """Where to go on from; None, which the log says, if nothing was kept yet."""
    kept = Checkpoints(directory / CHECKPOINTS)
    if kept.found():
        return kept.directory
    logger.warning("%s: no checkpoint yet; the run begins with round 1", directory)
    return None


def write_config(config: ExperimentConfig, directory: Path) -> None:
    """Write config.toml, whole or not at all, as that of a run which is not resumed."""
    partial = directory / ".config.toml"
    partial.write_text(to_toml(replace(config, resume=False)), encoding="utf-8")
    os.replace(partial, directory / "config.toml")
