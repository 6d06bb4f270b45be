"""The section of the page, from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from textwrap import fill

from benchmarks.simulation.catalogue import BASELINE, RATIOS, SYSTEMS, Ratio, System
from benchmarks.simulation.records import Head, Record

__all__ = ["ratios", "section", "spread"]

_TITLES = {"linear": "Linear model, 30,730 parameters", "cnn": "CNN, 1,626,442 parameters"}


def section(head: Head, records: Sequence[Record]) -> str:
    """Tables for each model, the ratios that targets name, and what it was measured on."""
    parts = [_table(model, records) for model in _TITLES if _of(records, model)]
    parts += [_targets(records), _footer(head, records)]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def ratios(records: Sequence[Record], model: str, system: str, against: str) -> list[float]:
    """Seconds a round of ``system`` over those of ``against``, for each repeat that has both."""
    mine, theirs = (
        {record.repeat: record.round_seconds for record in _of(records, model, key)}
        for key in (system, against)
    )
    return [mine[repeat] / theirs[repeat] for repeat in sorted(mine.keys() & theirs.keys())]


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median, and the range in brackets where there are several values."""
    if not values:
        return "not measured"
    middle = format(median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)} to {format(max(values), form)})"


def _of(records: Sequence[Record], model: str, system: str | None = None) -> list[Record]:
    return [
        record
        for record in records
        if record.model == model
        and record.status == "ok"
        and (system is None or record.system == system)
    ]


def _table(model: str, records: Sequence[Record]) -> str:
    lines = [
        f"**{_TITLES[model]}**",
        "",
        "| system | cores | ms a round | against the loop | first round | memory | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(system, model, records) for system in SYSTEMS]
    return "\n".join(line for line in lines if line is not None)


def _row(system: System, model: str, records: Sequence[Record]) -> str:
    runs = _of(records, model, system.key)
    cores = system.cores or "all"
    if not runs:
        return f"| {system.label} | {cores} | {_why_not(system, model, records)} | | | | |"
    milliseconds = spread([1e3 * run.round_seconds for run in runs], ".4g")
    against = (
        "1"
        if system.key == BASELINE
        else spread(ratios(records, model, system.key, BASELINE), ".2f")
    )
    distance = max(run.distance or 0.0 for run in runs)
    return (
        f"| {_versioned(system, runs[0])} | {cores} | {milliseconds} | {against} | "
        f"{median(run.first_round for run in runs):.1f} s | "
        f"{median(run.peak for run in runs) / 2**20:,.0f} MiB | {distance:.0e} |"
    )


def _versioned(system: System, run: Record) -> str:
    names = {"pfl": "pfl", "fedlab": "fedlab", "fluke": "fluke-fl"}
    known = run.versions.get(names.get(system.key, ""), "")
    return f"{system.label} {known}".rstrip()


def _why_not(system: System, model: str, records: Sequence[Record]) -> str:
    for record in records:
        if (record.model, record.system) == (model, system.key):
            said = record.reason.replace("|", "/")
            return "not installed" if record.status == "missing" else f"failed: {said}"
    return "not measured"


def _targets(records: Sequence[Record]) -> str:
    lines = ["| ratio, in one repeat | target | reached |", "|---|---|---|"]
    found = [(target, _reached(target, records)) for target in RATIOS]
    lines += [
        f"| {_TITLES[t.model].split(',')[0]}: {_label(t.system)} / {_label(t.against)} "
        f"| <= {t.at_most:g} | {reached} |"
        for t, reached in found
    ]
    return "\n".join(lines)


def _reached(target: Ratio, records: Sequence[Record]) -> str:
    values = ratios(records, target.model, target.system, target.against)
    if not values:
        return "not measured"
    verdict = "yes" if median(values) <= target.at_most else "no"
    return f"{spread(values, '.3f')}: {verdict}"


def _label(key: str) -> str:
    return next(system.label for system in SYSTEMS if system.key == key)


def _footer(head: Head, records: Sequence[Record]) -> str:
    timed = [record for record in records if record.status == "ok"]
    if not timed:
        return "Nothing was measured."
    versions: dict[str, str] = {}
    for record in timed:
        versions.update(record.versions)
    repeats = {
        model: 1 + max((r.repeat for r in timed if r.model == model), default=-1)
        for model in head.rounds
    }
    loads = [record.load for record in timed]
    runs = " and ".join(
        f"{repeats[model]} repeats of {count} timed rounds ({model})"
        for model, count in head.rounds.items()
    )
    how = (
        f"Interleaved: {runs}. Medians over the repeats of the median round of each, the range in "
        f"brackets. Memory: the sum of the largest resident sizes of a "
        "system's processes, shared pages counted in each. Weights: the largest difference of a "
        "final weight from the loop's."
    )
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    where = (
        f"Measured on {head.processor}, load average {min(loads):.1f} to {max(loads):.1f} before "
        f"the runs; commit {head.commit}; {listed}."
    )
    return "\n\n".join(fill(text, 100, break_on_hyphens=False) for text in (how, where))
