"""Aggregators by name, as the command line and the configuration write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedstrategies.robust.base import Aggregator
from fedstrategies.robust.coordinates import Median, TrimmedMean
from fedstrategies.robust.distances import GeometricMedian, Krum

__all__ = ["AGGREGATORS", "parse_aggregator"]

AGGREGATORS: Mapping[str, Callable[..., Aggregator]] = {
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
    "krum": Krum,
}
"""The aggregators by name."""

_SETTINGS: Mapping[str, Mapping[str, type]] = {
    "median": {},
    "trimmed-mean": {"share": float},
    "geometric-median": {"smoothing": float, "steps": int},
    "krum": {"share": float, "selected": int},
}


def parse_aggregator(text: str) -> Aggregator:
    """``median``, ``trimmed-mean[:share=..]``, ``geometric-median[:..]``, ``krum[:share=..,..]``.

    Parameters
    ----------
    text : str
        One of these; what is not set has the default of `TrimmedMean`, `GeometricMedian` or `Krum`.

    Raises
    ------
    ValueError
        If the text is none of these, or a setting is not a number in its range.

    Examples
    --------
    >>> from fedstrategies import parse_aggregator
    >>> parse_aggregator("krum:share=0.2,selected=3")
    Krum(share=0.2, selected=3)
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in AGGREGATORS:
        raise ValueError(f"{text!r}: the aggregators are {', '.join(AGGREGATORS)}")
    settings: dict[str, float | int] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        kind = _SETTINGS[name].get(key)
        if kind is None or key in settings:
            known = ", ".join(_SETTINGS[name]) or "none"
            raise ValueError(f"{text!r}: {part!r}; the settings of {name} are: {known}")
        try:
            settings[key] = kind(value)
        except ValueError:
            raise ValueError(f"{text!r}: {key} = {value!r} is not a number") from None
    return AGGREGATORS[name](**settings)
