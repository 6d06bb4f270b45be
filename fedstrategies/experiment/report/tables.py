"""The tables of the page: how the runs ended, the theory's constants, the options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from fedstrategies.experiment.history import total_bytes
from fedstrategies.experiment.progress import format_bytes
from fedstrategies.experiment.report.folders import RunFolder
from fedstrategies.experiment.report.groups import Group, differing
from fedstrategies.experiment.report.series import median_of

__all__ = ["Table", "constants_table", "ends_table", "options_tables", "versions_table"]

_Form = Callable[[float], str]
_ABSENT = "-"
_MOST_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Table:
    """Heads of the columns, and rows; the first cell of a row is its head."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _measured(value: float) -> str:
    return f"{value:.7g}"


def _small(value: float) -> str:
    return f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


_ENDS: tuple[tuple[str, str, _Form], ...] = (
    ("round", "rounds", _count),
    ("loss", "loss", _measured),
    ("gap", "gap", _small),
    ("grad_norm_sq", "squared gradient norm", _small),
    ("accuracy", "accuracy", _share),
    ("accuracy_personal", "personal accuracy", _share),
    ("accuracy_personal_worst_decile", "personal, worst tenth", _share),
    ("epsilon_max", "epsilon", _small),
    ("uplink_bytes", "uplink", format_bytes),
    ("downlink_bytes", "downlink", format_bytes),
    ("recovery_bytes", "recovery", format_bytes),
    ("total_bytes", "total", format_bytes),
    ("cost", "cost", _measured),
    ("seconds", "seconds", _seconds),
)


def ends_table(groups: Sequence[Group]) -> Table:
    """The last record of each curve; over several seeds the median, the least and the largest."""
    columns = []
    for key, head, form in _ENDS:
        cells = [_spread((_ended(run, key) for run in group.runs), form) for group in groups]
        if any(cell != _ABSENT for cell in cells):
            columns.append((head, cells))
    goals = dict.fromkeys(
        goal
        for group in groups
        for run in group.runs
        if run.summary
        for goal in run.summary.reached
    )
    columns += [
        (f"{goal} reached in round", [_reached(group, goal) for group in groups]) for goal in goals
    ]
    first = ("curve", [group.label for group in groups])
    state = ("ended", [_states(group) for group in groups])
    seeds = ("seeds", [_seeds(group) for group in groups])
    return _of_columns([first, state, seeds, *columns])


def _ended(run: RunFolder, key: str) -> float | None:
    return total_bytes(run.last) if key == "total_bytes" else run.last.get(key)


def _states(group: Group) -> str:
    states = [run.status for run in group.runs]
    counts = dict.fromkeys(sorted(states))
    if len(counts) == 1:
        return states[0]
    return ", ".join(f"{states.count(state)} {state}" for state in counts)


def _seeds(group: Group) -> str:
    seeds = sorted({run.seed or _ABSENT for run in group.runs}, key=lambda seed: (len(seed), seed))
    return ", ".join(seeds) if len(seeds) <= 4 else f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"


def _reached(group: Group, goal: str) -> str:
    rounds = [
        run.summary.reached[goal]["round"] if run.summary and goal in run.summary.reached else None
        for run in group.runs
    ]
    there = [number for number in rounds if number is not None]
    text = _spread(there, _count)
    return (
        text if len(there) == len(rounds) or not there else f"{text}; {len(there)} of {len(rounds)}"
    )


def constants_table(groups: Sequence[Group]) -> Table:
    """Step size, f*, and the constants of f and of the analysis, as summary.json has them."""
    names = ["stepsize", "fstar", "clients", "dimension"]
    kept = [[_constants(run) for run in group.runs if run.summary] for group in groups]
    names += dict.fromkeys(
        name for runs in kept for table in runs for name in table if name not in names
    )
    columns = [("curve", [group.label for group in groups])]
    for name in names:
        cells = [_spread((table.get(name) for table in runs), _measured) for runs in kept]
        if any(cell != _ABSENT for cell in cells):
            columns.append((_CONSTANTS.get(name, name.replace("_", " ")), cells))
    return _of_columns(columns)


_CONSTANTS = {
    "stepsize": "step size",
    "fstar": "f*",
    "clients": "n",
    "dimension": "d",
    "lam": "lambda",
}


def _constants(run: RunFolder) -> dict[str, float]:
    summary = run.summary
    if summary is None:
        return {}
    of_privacy = {
        name: value
        for name, value in summary.privacy.items()
        if name in ("noise_multiplier", "delta", "max_grad_norm")
    }
    found = {
        "stepsize": summary.stepsize,
        "fstar": summary.fstar,
        "clients": summary.clients,
        "dimension": summary.dimension,
        **summary.smoothness,
        **summary.theory,
        **of_privacy,
    }
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def options_tables(groups: Sequence[Group]) -> tuple[Table, Table]:
    """What differs between the curves, a column for each option; and what is common to them."""
    known = [group for group in groups if group.options]
    apart = differing([group.options for group in known]) if len(known) > 1 else []
    own = Table(
        heads=("curve", *apart),
        rows=tuple(
            (group.label, *(group.options.get(key) or _ABSENT for key in apart)) for group in known
        ),
    )
    shared = known[0].options if known else {}
    rows = tuple((key, value) for key, value in shared.items() if value and key not in apart)
    return own, Table(heads=("option", "value"), rows=rows)


def versions_table(groups: Sequence[Group]) -> Table:
    """Packages, with every version that a run was made with."""
    runs = [run for group in groups for run in group.runs]
    names = dict.fromkeys(name for run in runs for name in run.versions if name != "data")
    rows = [
        (name, ", ".join(dict.fromkeys(run.versions.get(name, _ABSENT) for run in runs)))
        for name in names
    ]
    return Table(heads=("package", "version"), rows=tuple(rows))


def _of_columns(columns: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """A row for each curve; a column where they are few, which fits a telephone."""
    lines = [(head, *cells) for head, cells in columns]
    if len(lines[0]) - 1 > _MOST_COLUMNS:
        lines = list(zip(*lines, strict=True))
    return Table(heads=lines[0], rows=tuple(lines[1:]))


def _spread(values: Iterable[float | None], form: _Form) -> str:
    """One value where all are the same, else the median, and below it least and largest."""
    found = sorted(float(value) for value in values if value is not None)
    found = [value for value in found if isfinite(value)]
    if not found:
        return _ABSENT
    least, middle, largest = (form(value) for value in (found[0], median_of(found), found[-1]))
    return middle if least == largest else f"{middle}\n({least} to {largest})"
