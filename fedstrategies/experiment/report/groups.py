"""Runs that differ in nothing but their seed are one curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedstrategies.experiment.families import all_options
from fedstrategies.experiment.plots import NAMES
from fedstrategies.experiment.report.folders import RunFolder

__all__ = ["Group", "differing", "grouped", "problem_differs"]

_LONGEST = 60
_NOT_OF_PROBLEM = {"seed", "x0", "smoothness", "batch-size", "dtype"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs of one configuration, a seed each.

    Attributes
    ----------
    label : str
        The algorithm, and what tells it from the others.
    runs : tuple of RunFolder
        In the order they were found.
    options : mapping
        What they have in common: every option but the seed and those of the group Output.
    """

    label: str
    runs: tuple[RunFolder, ...]
    options: Mapping[str, str]

    @property
    def measured(self) -> tuple[RunFolder, ...]:
        """Those with a history."""
        return tuple(run for run in self.runs if run.records)


def grouped(runs: Sequence[RunFolder]) -> tuple[Group, ...]:
    """Groups in the order of their first runs, each with a label of its own."""
    left_out = {"seed", *(entry.key for entry in all_options() if entry.group == "Output")}
    members: dict[tuple[tuple[str, str], ...], list[RunFolder]] = {}
    for run in runs:
        kept = {key: value for key, value in run.options.items() if key not in left_out}
        # Without a configuration nobody knows what it has in common with others.
        key = tuple(sorted(kept.items())) if kept else (("", run.name),)
        members.setdefault(key, []).append(run)
    groups = [(found, dict(key) if key[0][0] else {}) for key, found in members.items()]
    labels = _labels(groups)
    return tuple(
        Group(label=label, runs=tuple(found), options=options)
        for label, (found, options) in zip(labels, groups, strict=True)
    )


def _labels(groups: Sequence[tuple[Sequence[RunFolder], Mapping[str, str]]]) -> list[str]:
    """The algorithm, or what differs between those of the same, or both; the folder if need be."""
    rivals: dict[str, list[Mapping[str, str]]] = {}
    for found, options in groups:
        rivals.setdefault(found[0].algorithm, []).append(options)
    apart = {name: differing(tables) for name, tables in rivals.items()}
    labels = []
    for found, options in groups:
        name = found[0].algorithm
        own = [f"{key}={options.get(key) or '-'}" for key in apart[name]]
        plain = NAMES.get(name, name) or found[0].name
        named = own if len(rivals) == 1 and own else [plain, *own]
        label = ", ".join(named) if options else found[0].name
        labels.append(label if len(label) <= _LONGEST or not own else plain)
    twice = {label for label, count in Counter(labels).items() if count > 1}
    return [
        f"{label} ({found[0].name})" if label in twice else label
        for label, (found, _) in zip(labels, groups, strict=True)
    ]


def differing(tables: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys that do not have the same value in all tables, in the order they appear."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({table.get(key, "") for table in tables}) > 1]


def problem_differs(tables: Sequence[Mapping[str, str]]) -> list[str]:
    """Options that decide what is minimised and do not have the same value in all tables."""
    known = {entry.key for entry in all_options() if entry.group == "Problem"} - _NOT_OF_PROBLEM
    found = [key for key in differing(tables) if key in known]
    # Where there is no such option, or it is not set, everybody deploys the common model.
    weights = {table.get("alpha") or "1" for table in tables}
    return found + (["alpha"] if len(weights) > 1 else [])
