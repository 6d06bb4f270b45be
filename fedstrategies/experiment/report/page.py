"""The page: template, style, and what goes into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from fedstrategies.experiment.plots import NAMES
from fedstrategies.experiment.report.charts import (
    MOST_CURVES,
    X_NAMES,
    Y_NAMES,
    Chart,
    chart_of,
    shown_values,
)
from fedstrategies.experiment.report.groups import Group
from fedstrategies.experiment.report.remarks import remarks_on
from fedstrategies.experiment.report.tables import (
    Table,
    constants_table,
    ends_table,
    options_tables,
    versions_table,
)

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["MARK", "page_of"]

MARK = '<meta name="generator" content="fedstrategies report">'
"""By which a page that was written here is known."""

_KEY, _LONGEST = 8, 30
"""Widths, in characters, beside the pictures: a line's sample, and the most of its name."""

_NEVER = float("inf")

_TABS = {
    "rounds": "rounds",
    "uplink_bytes": "uplink bytes",
    "total_bytes": "total bytes",
    "cost": "cost",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity: its charts, one for each horizontal axis, and some of its values.

    Attributes
    ----------
    title, note : str
        What is shown; what must be known to read it.
    charts : tuple of Chart
        In the order of the tabs.
    values : Table
        Rounds and values.
    """

    title: str
    note: str
    charts: tuple[Chart, ...]
    values: Table


def page_of(groups: Sequence[Group], *, title: str) -> str:
    """The whole page as HTML.

    Parameters
    ----------
    groups : sequence of Group
        At least one.
    title : str
        What the page is about.
    """
    drawn = _drawn(groups)
    panels = [panel for y in _quantities(groups) if (panel := _panel(drawn, y)) is not None]
    own, shared = options_tables(groups)
    tabs = {
        name: text
        for name, text in _TABS.items()
        if any(chart.x == name for panel in panels for chart in panel.charts)
    }
    seeds = max(len(group.measured) for group in groups)
    html = _template().render(
        mark=MARK,
        style=files(__package__).joinpath("style.css").read_text(encoding="utf-8"),
        title=title,
        subtitle=_subtitle(groups),
        remarks=remarks_on(groups),
        panels=panels,
        tabs=tabs,
        legend=[(number, group.label) for number, group in enumerate(drawn)],
        names=_KEY + min(_LONGEST, max(len(group.label) for group in drawn)),
        banded=seeds > 1,
        several=len(groups) > 1,
        ends=ends_table(groups),
        constants=constants_table(groups),
        own=own,
        shared=shared,
        versions=versions_table(groups),
        folders=[(run.name, group.label) for group in groups for run in group.runs],
    )
    # Lone halves of surrogate pairs, which JSON may hold, are no text.
    return html.encode("utf-8", "replace").decode("utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _quantities(groups: Sequence[Group]) -> list[str]:
    """The gap where every curve has it, else the loss; and whatever else was measured."""
    measured = [
        {key for run in group.measured for r in run.records for key in r} for group in groups
    ]
    some = set().union(*measured)
    main = "gap" if all("gap" in own for own in measured if own) and "gap" in some else "loss"
    return [main, *(name for name in Y_NAMES if name not in ("gap", "loss") and name in some)]


def _drawn(groups: Sequence[Group]) -> list[Group]:
    """All of them, or the best: the cheapest to a target, else those with the least at the end."""
    if len(groups) <= MOST_CURVES:
        return list(groups)
    y = _quantities(groups)[0]

    def ended(group: Group) -> tuple[float, float]:
        costs = [
            record.get("cost", _NEVER)
            for run in group.runs
            if run.summary
            for record in run.summary.reached.values()
        ]
        lasts = [run.last.get(y, _NEVER) for run in group.measured]
        return min(costs, default=_NEVER), min(lasts, default=_NEVER)

    best = sorted(range(len(groups)), key=lambda number: (ended(groups[number]), number))
    return [groups[number] for number in sorted(best[:MOST_CURVES])]


def _panel(groups: Sequence[Group], y: str) -> Panel | None:
    charts = tuple(chart for x in X_NAMES if (chart := chart_of(groups, x, y)) is not None)
    if not charts:
        return None
    notes = {
        "accuracy": "On the set's own test rows where it has some, else on the training rows.",
    }
    if charts[0].log:
        notes[y] = "Logarithmic. What is not above 0 is left out."
    values = Table(
        heads=("round", *(group.label for group in groups)),
        rows=tuple((at, *texts) for at, texts in shown_values(groups, y)),
    )
    return Panel(title=Y_NAMES[y], note=notes.get(y, ""), charts=charts, values=values)


def _subtitle(groups: Sequence[Group]) -> str:
    """Data and size, where they are the same for all."""
    facts = []
    for key, form in (
        ("algorithm", "{}"),
        ("dataset", "{}"),
        ("model", "{}"),
        ("clients", "{} clients"),
    ):
        values = {group.options.get(key, "") for group in groups}
        if len(values) == 1 and (value := values.pop()):
            facts.append(form.format(NAMES.get(value, value)))
    count = sum(len(group.runs) for group in groups)
    return ", ".join([*facts, f"{count} run{'s' * (count > 1)}"])
