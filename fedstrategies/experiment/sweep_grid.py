"""What a sweep runs: values of options, every combination of them, a configuration for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.families import all_options, config_from_mapping
from fedstrategies.experiment.options import ConfigError, Scalar
from fedstrategies.experiment.views import to_mapping

__all__ = ["Sweep", "parse_over", "sweep_of"]

_OUTPUT = ("out", "overwrite", "quiet")
_RUNNING = ("backend", "fast", "algorithm")
# Costs to different targets, or in different prices, cannot be compared.
_YARDSTICK = ("target-gap", "target-accuracy", "cost-inner", "cost-outer")
_NOT_SWEPT = (*_OUTPUT, *_RUNNING, *_YARDSTICK)

_RANGE = re.compile(r"([-+]?\d+)\.\.([-+]?\d+)(?::(\d+))?")
_MOST_CELLS = 100_000
_SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+=,"
_LONGEST_NAME = 200  # file systems take 255 bytes


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid and where its cells go.

    Attributes
    ----------
    algorithm : str
        What is run in every cell.
    grid : mapping
        Option -> values as text, in the order given.
    configs : tuple of (values, configuration)
        One per cell; the last option varies fastest.
    out : Path
        Folder of the sweep.
    """

    algorithm: str
    grid: Mapping[str, tuple[str, ...]]
    configs: tuple[tuple[Mapping[str, str], ExperimentConfig], ...]
    out: Path

    @property
    def first(self) -> ExperimentConfig:
        """The first cell's configuration: what is not swept is the same in all."""
        return self.configs[0][1]

    @property
    def options(self) -> dict[str, Scalar]:
        """All other options, resolved as in the first cell; where results go is left out."""
        left_out = {*self.grid, *_OUTPUT, "algorithm"}
        return {key: value for key, value in to_mapping(self.first).items() if key not in left_out}

    @property
    def target(self) -> str | None:
        """``target-gap`` or ``target-accuracy``, whichever is set."""
        if self.first.target_gap is not None:
            return "target-gap"
        return "target-accuracy" if self.first.target_accuracy is not None else None


def parse_over(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUES`` arguments: ``1..20``, ``1..20:3`` or values between commas.

    Values that hold commas themselves are separated by ``;``.

    Raises
    ------
    ConfigError
        For a malformed argument, an option that does not exist, cannot be swept or is given
        twice, a value that is repeated, or too many cells.
    """
    known = {entry.key for entry in all_options()}
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not values:
            raise ConfigError(f"over: {text!r} is not KEY=VALUES, e.g. stepsize=0.1,1 or k=1..20")
        if key in _NOT_SWEPT:
            raise ConfigError(f"over: {key} is the same for all cells of a sweep")
        if key not in known:
            raise ConfigError(f"over: there is no option {key!r}")
        if key in grid:
            raise ConfigError(f"over: {key} is given twice")
        grid[key] = tuple(_values(text, values))
        if len(set(grid[key])) < len(grid[key]):
            raise ConfigError(f"over: {text!r} repeats a value")
    if not grid:
        raise ConfigError("over: say what to vary, e.g. --over stepsize=0.1,1,10")
    cells = prod(len(values) for values in grid.values())
    if cells > _MOST_CELLS:
        raise ConfigError(f"over: {cells} cells; more than {_MOST_CELLS} are not run")
    return grid


def _values(text: str, values: str) -> Iterator[str]:
    # A path may hold two dots as well.
    if ".." in values and "/" not in values and "\\" not in values:
        yield from map(str, _range(text, values))
        return
    parts = [part.strip() for part in values.split(";" if ";" in values else ",")]
    if not all(parts):
        raise ConfigError(f"over: {text!r} has an empty value")
    yield from parts


def _range(text: str, values: str) -> range:
    match = _RANGE.fullmatch("".join(values.split()))
    if match is None or (match[3] and not int(match[3])):
        raise ConfigError(f"over: {text!r} is not a range like 1..20 or 1..20:2")
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    count = (last - first) // step + 1  # len() fails on the longest ranges
    if not 1 <= count <= _MOST_CELLS:
        raise ConfigError(f"over: {text!r} has {max(count, 0)} values")
    return range(first, last + 1, step)


def sweep_of(
    algorithm: str,
    over: Sequence[str],
    given: Mapping[str, object],
    *,
    defaults: Mapping[str, object] | None = None,
) -> Sweep:
    """The sweep that a command line describes; every cell's configuration is checked.

    Parameters
    ----------
    algorithm : str
        Name of an algorithm.
    over : sequence of str
        What `parse_over` reads.
    given : mapping
        Kebab-case options of all cells.
    defaults : mapping, optional
        The same, but ``given`` and ``over`` win over them: what a file says.

    Raises
    ------
    ConfigError
        If a cell's configuration is wrong, or two cells have the same.
    """
    grid = parse_over(over)
    for key in grid:
        if key in given:
            raise ConfigError(f"over: {key} is also given as --{key}; give one of the two")
    shared = {**(defaults or {}), **given, "algorithm": algorithm}
    cells: dict[ExperimentConfig, Mapping[str, str]] = {}
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        config = config_from_mapping({**shared, **chosen})
        if config in cells:
            raise ConfigError(f"over: {_text(cells[config])} and {_text(chosen)} are the same")
        cells[config] = chosen
    first = next(iter(cells))
    out = Path(first.out) if first.out is not None else _default_directory(first)
    placed = tuple(
        (chosen, replace(config, out=str(out / "cells" / _folder(chosen)), overwrite=True))
        for config, chosen in cells.items()
    )
    return Sweep(algorithm=algorithm, grid=grid, configs=placed, out=out)


def _default_directory(config: ExperimentConfig) -> Path:
    """Always the same one, so that ``--resume`` finds it."""
    return Path("runs") / f"sweep-{config.algorithm}-{config.dataset_name}-{config.seed}"


def _text(chosen: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in chosen.items())


def _folder(chosen: Mapping[str, str]) -> str:
    """A name that every file system takes and no two cells share."""
    text = _text(chosen)
    name = "".join(c if c in _SAFE else f"%{ord(c):02x}" for c in text)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{sha256(text.encode()).hexdigest()[:16]}"
