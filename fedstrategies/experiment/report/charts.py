"""Curves as plain numbers in SVG, with their axes as text beside it.

The drawing is stretched to the width there is, and its text is not: letters have the same size on
a telephone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedstrategies.experiment.report.groups import Group
from fedstrategies.experiment.report.scales import Scale, scale_for
from fedstrategies.experiment.report.series import Series, series_of

__all__ = ["MOST_CURVES", "X_NAMES", "Y_NAMES", "Chart", "Line", "chart_of", "shown_values"]

MOST_CURVES = 8
"""As many as can be told apart."""

X_NAMES = {
    "rounds": "communication rounds",
    "uplink_bytes": "uplink bytes, all clients",
    "total_bytes": "bytes up and down, all clients",
    "cost": "communication cost",
    "seconds": "time",
}
"""Horizontal axes, in the order of the tabs."""

Y_NAMES = {
    "gap": "Gap f(x) + R(x) - f*",
    "loss": "Loss f(x) + R(x)",
    "accuracy": "Accuracy of the server's model",
    "accuracy_personal": "Accuracy of the clients' own models, mean",
    "epsilon_max": "Epsilon, largest of the clients",
}
"""Vertical axes, in the order of the page."""

_WIDTH, _HEIGHT = 2000, 1000
_LABEL_SPACING = 0.065
_SPANS = {"gap": 10.0, "loss": 100.0}
"""What a logarithmic axis is good for, and from which ratio of its values on."""
_ROUNDING = 1e-9
_UNEVEN = 10.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve as it is drawn.

    Attributes
    ----------
    number : int
        Of its colour and dash.
    label : str
        Of its group.
    path, band : str
        Data of SVG paths; the band's is empty for a single seed.
    end : tuple of float
        Place of its last point, from left and bottom, 0 to 1.
    label_at : float
        Height of its name beside the picture, 0 to 1.
    """

    number: int
    label: str
    path: str
    band: str
    end: tuple[float, float]
    label_at: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture: lines, ticks, and the same in words.

    Attributes
    ----------
    x, y : str
        What is drawn against what.
    lines : tuple of Line
        By group; those without a point are left out.
    x_ticks, y_ticks : sequence of (float, str)
        Places from 0 to 1, and texts.
    x_label : str
        Of the horizontal axis.
    log : bool
        Whether the vertical axis is logarithmic.
    text : str
        What is to be seen, for those who do not see it.
    """

    x: str
    y: str
    lines: tuple[Line, ...]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_label: str
    log: bool
    text: str


def chart_of(groups: Sequence[Group], x: str, y: str) -> Chart | None:
    """The chart of y against x; None if there is nothing to draw.

    A vertical axis is logarithmic for gaps and losses that are positive and span a factor of 10
    and of 100; a horizontal one for bytes, where one curve ends at ten times the bytes of another.
    What is not positive is left out there.
    """
    found = [
        (number, group.label, series_of([run.records for run in group.measured], x, y))
        for number, group in enumerate(groups)
    ]
    found = [entry for entry in found if entry[2].x]
    log_y = y in _SPANS and _spans(found, _SPANS[y])
    log_x = x.endswith("bytes") and _ends_apart([series for _, _, series in found])
    drawn = [(n, label, _drawable(series, log_x, log_y)) for n, label, series in found]
    drawn = [entry for entry in drawn if entry[2].x]
    if not drawn:
        return None
    abscissae = [at for _, _, series in drawn for at in series.x]
    across = scale_for(x, abscissae, log=log_x, most=4, tight=True)
    heights = [v for _, _, s in drawn for v in (*s.y, *s.low, *s.high) if v > 0 or not log_y]
    up = scale_for(y, heights, log=log_y, most=6, tight=False)
    ends = [(across.place(s.x[-1]), up.place(s.y[-1])) for _, _, s in drawn]
    places = _spread([end[1] for end in ends])
    return Chart(
        x=x,
        y=y,
        lines=tuple(
            Line(
                number=number,
                label=label,
                path=_path(across, up, series.x, series.y),
                band=_band(across, up, series) if series.seeds > 1 else "",
                end=end,
                label_at=place,
            )
            for (number, label, series), end, place in zip(drawn, ends, places, strict=True)
        ),
        x_ticks=across.ticks(),
        y_ticks=up.ticks(),
        x_label=X_NAMES[x] + (", logarithmic" if log_x else ""),
        log=log_y,
        text=_in_words(drawn, x, y),
    )


def _spans(found: Sequence[tuple[int, str, Series]], factor: float) -> bool:
    """Whether values are positive, but for what rounding made of 0, and that far apart."""
    values = [value for _, _, series in found for value in series.y]
    positive = [value for value in values if value > 0]
    if not positive or min(values) < -_ROUNDING * max(positive):
        return False
    return max(positive) / factor > min(positive)


def _ends_apart(found: Sequence[Series]) -> bool:
    ends = [series.x[-1] for series in found]
    return bool(ends) and min(ends) > 0 and max(ends) > _UNEVEN * min(ends)


def _drawable(series: Series, log_x: bool, log_y: bool) -> Series:
    """Without the points that a logarithmic axis has no place for."""
    points = [
        point
        for point in zip(series.x, series.y, series.low, series.high, strict=True)
        if (point[0] > 0 or not log_x) and (point[1] > 0 or not log_y)
    ]
    x, y, low, high = (
        (tuple(column) for column in zip(*points, strict=True)) if points else ((),) * 4
    )
    return Series(seeds=series.seeds, x=x, y=y, low=low, high=high)


def _points(across: Scale, up: Scale, x: Sequence[float], y: Sequence[float]) -> list[str]:
    texts = [
        f"{across.place(at) * _WIDTH:.0f} {(1 - up.place(value)) * _HEIGHT:.0f}"
        for at, value in zip(x, y, strict=True)
    ]
    return [text for place, text in enumerate(texts) if not place or text != texts[place - 1]]


def _path(across: Scale, up: Scale, x: Sequence[float], y: Sequence[float]) -> str:
    points = _points(across, up, x, y)
    # A single point is a line of no length, which round ends make a dot.
    return f"M{'L'.join(points)}" + ("" if len(points) > 1 else f"L{points[0]}")


def _band(across: Scale, up: Scale, series: Series) -> str:
    # The lower edge of what has no place on a logarithmic axis is the axis itself.
    low = [max(value, up.low) if up.log else value for value in series.low]
    there = _points(across, up, series.x, series.high)
    back = _points(across, up, series.x[::-1], low[::-1])
    return f"M{'L'.join([*there, *back])}Z"


def _spread(heights: Sequence[float]) -> list[float]:
    """Pushed apart where they are closer than a line of text, and back below the upper end."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    places = list(heights)
    lowest = 0.0
    for index in order:
        places[index] = lowest = max(places[index], lowest)
        lowest += _LABEL_SPACING
    highest = 1.0
    for index in reversed(order):
        places[index] = min(places[index], highest)
        highest = places[index] - _LABEL_SPACING
    return places


def shown_values(groups: Sequence[Group], y: str, *, most: int = 7) -> list[tuple[str, list[str]]]:
    """A few rounds, and the value of each group there, as text; ``-`` where it has none."""
    found = [series_of([run.records for run in group.measured], "rounds", y) for group in groups]
    tables = [dict(zip(series.x, series.y, strict=True)) for series in found]
    rounds = sorted({at for table in tables for at in table})
    if not rounds:
        return []
    count = min(most, len(rounds))
    kept = [rounds[round(i * (len(rounds) - 1) / max(1, count - 1))] for i in range(count)]
    return [
        (f"{at:,.0f}", [f"{table[at]:.4g}" if at in table else "-" for table in tables])
        for at in dict.fromkeys(kept)
    ]


def _in_words(drawn: Sequence[tuple[int, str, Series]], x: str, y: str) -> str:
    parts = [
        f"{label}: from {series.y[0]:.3g} at {series.x[0]:.4g} to {series.y[-1]:.3g} at "
        f"{series.x[-1]:.4g}" + (f", median of {series.seeds} seeds" if series.seeds > 1 else "")
        for _, label, series in drawn
    ]
    return f"{Y_NAMES[y]} against {X_NAMES[x]}. {'; '.join(parts)}."
