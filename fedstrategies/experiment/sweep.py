"""A grid of experiments: every combination of some options, each in a folder of its own.

A cell that is finished is never run again, so a sweep that was cut off goes on where it stopped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fedstrategies.data import DataError
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.families import all_options, config_from_mapping
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import Summary, check_directory
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.sweep_results import Cell, SweepResults
from fedstrategies.experiment.views import read_toml, to_mapping

__all__ = ["Sweep", "parse_over", "run_sweep", "sweep_of"]

Progress = Callable[[int], AbstractContextManager[Callable[[Cell], None]]]

_OUTPUT = ("out", "overwrite", "quiet")
_NOT_SWEPT = (*_OUTPUT, "backend", "fast", "algorithm")
_LARGEST = 100_000
_SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+="


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


def parse_over(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUES`` arguments: ``1..20``, ``1..20:3`` or values between commas.

    Values that hold commas themselves are separated by ``;``.

    Raises
    ------
    ConfigError
        For a malformed argument, an option that does not exist, cannot be swept or is given
        twice, or a value that is repeated.
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
    return grid


def _values(text: str, values: str) -> Iterator[str]:
    first, dots, rest = values.partition("..")
    if not dots:
        parts = [part.strip() for part in values.split(";" if ";" in values else ",")]
        if not all(parts):
            raise ConfigError(f"over: {text!r} has an empty value")
        yield from parts
        return
    last, colon, step = rest.partition(":")
    try:
        numbers = range(int(first), int(last) + 1, int(step) if colon else 1)
    except ValueError:
        raise ConfigError(f"over: {text!r} is not a range like 1..20 or 1..20:2") from None
    if not len(numbers) or len(numbers) > _LARGEST:
        raise ConfigError(f"over: {text!r} has {len(numbers)} values")
    yield from map(str, numbers)


def sweep_of(algorithm: str, over: Sequence[str], given: Mapping[str, object]) -> Sweep:
    """The sweep that a command line describes; every cell's configuration is checked.

    Parameters
    ----------
    algorithm : str
        Name of an algorithm.
    over : sequence of str
        What `parse_over` reads.
    given : mapping
        Kebab-case options of all cells.

    Raises
    ------
    ConfigError
        If a cell's configuration is wrong.
    """
    grid = parse_over(over)
    for key in grid:
        if key in given:
            raise ConfigError(f"over: {key} is also given as --{key}; give one of the two")
    shared = {**given, "algorithm": algorithm}
    cells = []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        cells.append((chosen, config_from_mapping({**shared, **chosen})))
    first = cells[0][1]
    out = Path(first.out) if first.out is not None else _default_directory(first)
    placed = tuple(
        (chosen, replace(config, out=str(out / "cells" / _folder(chosen)), overwrite=True))
        for chosen, config in cells
    )
    return Sweep(algorithm=algorithm, grid=grid, configs=placed, out=out)


def _default_directory(config: ExperimentConfig) -> Path:
    name = f"sweep-{config.algorithm}-{config.dataset_name}-{config.seed}"
    return Path("runs") / name


def _folder(chosen: Mapping[str, str]) -> str:
    """A name that every file system takes and no two cells share."""
    text = ",".join(f"{key}={value}" for key, value in chosen.items())
    return "".join(c if c in _SAFE or c == "," else f"%{ord(c):02x}" for c in text)


def run_sweep(
    sweep: Sweep, *, show: Progress, overwrite: bool = False, resume: bool = False
) -> SweepResults:
    """Run all cells that are not finished; ``sweep.json`` is up to date after each.

    Parameters
    ----------
    sweep : Sweep
        From `sweep_of`.
    show : callable
        Number of cells -> context manager that gives what is called with each finished cell.
    overwrite : bool
        Run finished cells again.
    resume : bool
        Go on with a sweep in the folder.

    Raises
    ------
    ConfigError, DataError
        If the folder holds something and neither is set, holds another sweep, or the first
        cell's input is wrong; nothing was run.
    """
    if resume and overwrite:
        raise ConfigError("resume: give --resume or --overwrite, not both")
    if resume:
        _check_same(sweep)
    else:
        check_directory(sweep.out, overwrite=overwrite)
    results = SweepResults(algorithm=sweep.algorithm, grid=sweep.grid, target=_target(sweep.first))
    with show(len(sweep.configs)) as finished:
        for number, (chosen, config) in enumerate(sweep.configs):
            known = None if overwrite or not resume else _finished(config)
            cell = Cell.of(chosen, known or _run(config, first=number == 0), results.target)
            results = results.with_cell(cell)
            results.write(sweep.out)
            finished(cell)
    results.write_table(sweep.out)
    if importlib.util.find_spec("matplotlib") is not None:
        from fedstrategies.experiment.sweep_plot import draw_sweep

        draw_sweep(results, sweep.out / "sweep.png", title=_title(sweep))
    return results


def _run(config: ExperimentConfig, *, first: bool) -> Summary | str:
    """How a cell ended; text where it could not begin."""
    try:
        return run(config, picture=False)
    except (ConfigError, DataError) as error:
        if first:  # most likely the problem itself is wrong, and every cell would say so
            raise
        return str(error)


def _finished(config: ExperimentConfig) -> Summary | None:
    """The summary of a cell that ended by itself, under the same options."""
    folder = Path(config.out or ".")
    if not (folder / "summary.json").exists():
        return None
    summary = Summary.read(folder)
    return summary if summary.status in ("done", "diverged") else None


def _check_same(sweep: Sweep) -> None:
    """Refuse to mix cells of different sweeps."""
    path = sweep.out / "sweep.json"
    if not path.exists():
        raise ConfigError(f"resume: {sweep.out} holds no sweep; leave out --resume")
    before = SweepResults.read(path)
    if before.algorithm != sweep.algorithm or dict(before.grid) != dict(sweep.grid):
        raise ConfigError(
            f"resume: {sweep.out} holds a sweep of {before.algorithm} over "
            f"{_described(before.grid)}; give the same --over, or another --out"
        )
    for _, config in sweep.configs:
        written = Path(config.out or ".") / "config.toml"
        if not written.exists():
            continue
        was, now = to_mapping(read_toml(written)), to_mapping(config)
        differing = [key for key in now if was.get(key) != now[key] and key not in _OUTPUT]
        for key in differing[:1]:
            raise ConfigError(
                f"resume: {key} was {was.get(key)!r} and is {now[key]!r} now; give the same "
                "options, or another --out"
            )


def _described(grid: Mapping[str, Sequence[str]]) -> str:
    return " ".join(f"{key}={','.join(values)}" for key, values in grid.items())


def _target(config: ExperimentConfig) -> str | None:
    if config.target_gap is not None:
        return "target-gap"
    return "target-accuracy" if config.target_accuracy is not None else None


def _title(sweep: Sweep) -> str:
    from fedstrategies.experiment.plots import NAMES

    config = sweep.first
    name = NAMES.get(sweep.algorithm, sweep.algorithm)
    return f"{name} on {config.dataset_name}, {config.clients} clients"
