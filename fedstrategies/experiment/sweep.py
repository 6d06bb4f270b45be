"""Running a grid of experiments, each in a folder of its own.

A cell that is finished is never run again, so a sweep that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from fedstrategies.data import DataError
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.drawing import why_no_pictures
from fedstrategies.experiment.folder_lock import FolderLock
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.results import Summary, check_directory
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.sweep_grid import Sweep
from fedstrategies.experiment.sweep_results import Cell, SweepResults
from fedstrategies.experiment.writing import writing

__all__ = ["run_sweep"]

Progress = Callable[[int, int], AbstractContextManager[Callable[[Cell], None]]]


def run_sweep(
    sweep: Sweep, *, show: Progress, overwrite: bool = False, resume: bool = False
) -> SweepResults:
    """Run all cells that are not finished; ``sweep.json`` is up to date after each.

    Cells run in the order of the grid, but those with the same data and constants one after the
    other, so that these are computed once for all of them. The results are in the grid's order.

    Parameters
    ----------
    sweep : Sweep
        From `sweep_of`.
    show : callable
        Number of cells, and of those that are finished already -> context manager that gives what
        is called with each finished cell, those first.
    overwrite : bool
        Run finished cells again.
    resume : bool
        Go on with a sweep in the folder.

    Raises
    ------
    ConfigError, DataError
        If the folder holds something and neither is set, or holds another sweep, or no cell's
        input is right, or another process is writing the folder; nothing was run.
    WriteError
        If results cannot be written.
    """
    if resume and overwrite:
        raise ConfigError("resume: give --resume or --overwrite, not both")
    if resume:
        _check_same(sweep)
    else:
        _check_free(sweep, overwrite=overwrite)
    cells: dict[int, Cell] = {}
    if resume:
        for number, (chosen, config) in enumerate(sweep.configs):
            summary = _finished(config)
            if summary is not None:
                cells[number] = Cell.of(chosen, summary, sweep.target)
    if not cells:
        _check_input(config for _, config in sweep.configs)
    with FolderLock(sweep.out):
        _claim(sweep, overwrite=overwrite)
        return _run_cells(sweep, cells, show=show)


def _run_cells(sweep: Sweep, cells: dict[int, Cell], *, show: Progress) -> SweepResults:
    """Run those that are not in ``cells`` yet."""
    results = _results(sweep, cells)
    results.write(sweep.out)
    with show(len(sweep.configs), len(cells)) as finished:
        for cell in results.cells:
            finished(cell)
        for number in _order(sweep):
            if number in cells:
                continue
            chosen, config = sweep.configs[number]
            cells[number] = Cell.of(chosen, _run(config), sweep.target)
            results = _results(sweep, cells)
            results.write(sweep.out)
            finished(cells[number])
    results.write_table(sweep.out)
    _draw(sweep, results)
    return results


def _results(sweep: Sweep, cells: Mapping[int, Cell]) -> SweepResults:
    return SweepResults(
        algorithm=sweep.algorithm,
        grid=sweep.grid,
        options=sweep.options,
        target=sweep.target,
        cells=tuple(cells[number] for number in sorted(cells)),
    )


def _order(sweep: Sweep) -> list[int]:
    """Numbers of the cells, those on the same problem together: only a few problems are kept."""
    first_on: dict[ProblemConfig, int] = {}
    for number, (_, config) in enumerate(sweep.configs):
        first_on.setdefault(config.problem, number)
    numbers = range(len(sweep.configs))
    return sorted(numbers, key=lambda number: first_on[sweep.configs[number][1].problem])


def _run(config: ExperimentConfig) -> Summary | str:
    """How a cell ended; text where it could not begin."""
    try:
        return run(config, picture=False)
    except (ConfigError, DataError) as error:
        return str(error)


def _check_input(configs: Iterable[ExperimentConfig]) -> None:
    """Refuse a sweep of which no cell could begin, before anything is written."""
    first_error: ConfigError | DataError | None = None
    for config in configs:
        try:
            prepare(config)
        except (ConfigError, DataError) as error:
            first_error = first_error or error
        else:
            return
    if first_error is not None:
        raise first_error


def _finished(config: ExperimentConfig) -> Summary | None:
    """The summary of a cell that ended by itself."""
    try:
        summary = Summary.read(Path(config.out or "."))
    except ValueError:  # none, or cut off while it was written
        return None
    return summary if summary.status in ("done", "diverged") else None


def _claim(sweep: Sweep, *, overwrite: bool) -> None:
    """Remove what is over; with ``overwrite`` no earlier cell counts as finished any more."""
    try:
        if overwrite:
            for _, config in sweep.configs:
                (Path(config.out or ".") / "summary.json").unlink(missing_ok=True)
        for name in ("sweep.csv", "sweep.png"):
            (sweep.out / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"out: {sweep.out} cannot be written ({error.strerror})") from None


def _check_free(sweep: Sweep, *, overwrite: bool) -> None:
    if (sweep.out / "sweep.json").exists() and not overwrite:
        raise ConfigError(
            f"out: {sweep.out} is not empty, it holds a sweep; go on with --resume, "
            "add --overwrite or choose another folder"
        )
    check_directory(sweep.out, overwrite=overwrite)


def _check_same(sweep: Sweep) -> None:
    """Refuse to mix cells of different sweeps."""
    path = sweep.out / "sweep.json"
    if not path.exists():
        raise ConfigError(f"resume: {sweep.out} holds no sweep; leave out --resume")
    try:
        before = SweepResults.read(path)
    except ValueError as error:
        raise ConfigError(f"resume: {error}; add --overwrite instead") from None
    if before.algorithm != sweep.algorithm or list(before.grid.items()) != list(sweep.grid.items()):
        raise ConfigError(
            f"resume: {sweep.out} holds a sweep of {before.algorithm} over "
            f"{_described(before.grid)}; give the same --over, or another --out"
        )
    was, now = before.options, sweep.options
    for key in now:
        if was.get(key) != now[key]:
            raise ConfigError(
                f"resume: {key} was {was.get(key)!r} and is {now[key]!r} now; give the same "
                "options, or another --out"
            )


def _described(grid: Mapping[str, Sequence[str]]) -> str:
    return " ".join(f"{key}={','.join(values)}" for key, values in grid.items())


def _draw(sweep: Sweep, results: SweepResults) -> None:
    if why_no_pictures() is not None:
        return
    from fedstrategies.experiment.plots import NAMES
    from fedstrategies.experiment.sweep_plot import draw_sweep

    config = sweep.first
    name = NAMES.get(sweep.algorithm, sweep.algorithm)
    title = f"{name} on {config.dataset_name}, {config.clients} clients"
    with writing(sweep.out / "sweep.png"):
        draw_sweep(results, sweep.out / "sweep.png", title=title)
