"""A step size as users write it; imports nothing, so that the command line starts at once."""

from __future__ import annotations

from math import isfinite

__all__ = ["parse_stepsize"]


def parse_stepsize(setting: float | str | None) -> tuple[float, bool]:
    """``theory`` (or None), ``theory*4`` or a number, as (value, whether a multiple of theory's).

    Raises
    ------
    ValueError
        If the setting is none of these, or not positive and finite.
    """
    text = "theory" if setting is None else str(setting).replace(" ", "")
    head, star, factor = text.partition("*")
    relative = head == "theory"
    number = (factor if star else "1") if relative else text
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"{setting!r} is not theory, theory*4 or a number") from None
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{setting} is not positive and finite")
    return value, relative
