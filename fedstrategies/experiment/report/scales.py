"""Axes: where a value lies between 0 and 1, and ticks in units that can be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log10

__all__ = ["Scale", "scale_for"]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LARGEST, _SMALLEST = 1e300, 1e-300
"""Of what is told apart, so that neither products nor differences overflow."""
_BYTES = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
_SECONDS = ((1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))
_PLAIN = ((1.0, ""),)
_PERCENT = ((0.01, "%"),)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis.

    Attributes
    ----------
    low, high : float
        Its ends, ``low < high``.
    log : bool
        Whether it is logarithmic; both ends are positive then.
    units : tuple
        Factors and names, the smallest first.
    most : int
        About how many ticks.
    """

    low: float
    high: float
    log: bool = False
    units: tuple[tuple[float, str], ...] = _PLAIN
    most: int = 5

    def place(self, value: float) -> float:
        """Where it lies, 0 at ``low`` and 1 at ``high``; values beyond lie at an end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts."""
        values = self._decades() if self.log else self._steps()
        return [(self.place(value), text) for value, text in values]

    def _steps(self) -> list[tuple[float, str]]:
        factor, unit = self._unit(max(abs(self.low), abs(self.high)))
        low, high = self.low / factor, self.high / factor
        step = _nice_step(high - low, self.most)
        first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
        if not 0 <= last - first <= 4 * self.most:
            return [(self.low, f"{self.low:.3g}"), (self.high, f"{self.high:.3g}")]
        numbers = [count * step for count in range(first, last + 1)]
        return [(number * factor, _with(unit, _number(number, step))) for number in numbers]

    def _decades(self) -> list[tuple[float, str]]:
        first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
        exponents = range(first, last + 1)
        if len(exponents) >= 3:
            step = ceil(len(exponents) / self.most)
            kept = [exponent for exponent in exponents if exponent % step == 0]
            power = self.units is _PLAIN and not -4 < min(kept) <= max(kept) < 4
            return [(10.0**at, _power(at) if power else self._log_text(1, at)) for at in kept]
        found = [
            (mantissa * 10.0**exponent, self._log_text(mantissa, exponent))
            for exponent in range(first - 1, last + 1)
            for mantissa in (1, 2, 5)
            if self.low <= mantissa * 10.0**exponent <= self.high
        ]
        return found or [(self.low, f"{self.low:.3g}"), (self.high, f"{self.high:.3g}")]

    def _log_text(self, mantissa: int, exponent: int) -> str:
        value = mantissa * 10.0**exponent
        factor, unit = self._unit(value)
        return _with(unit, f"{value / factor:.4g}")

    def _unit(self, largest: float) -> tuple[float, str]:
        fitting = [unit for unit in self.units if unit[0] <= largest * (1 + 1e-12)]
        if self.units is _SECONDS:  # 90 s, not 1.5 min
            fitting = [unit for unit in fitting if unit[0] <= 1 or largest >= 2 * unit[0]]
        return fitting[-1] if fitting else self.units[0]


def _power(exponent: int) -> str:
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _with(unit: str, text: str) -> str:
    return f"{text} {unit}" if unit else text


def _nice_step(span: float, most: int) -> float:
    raw = span / most
    power = 10.0 ** floor(log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))


def _number(value: float, step: float) -> str:
    if value and not 1e-4 <= abs(step) <= 1e7:
        return f"{value:.3g}"
    decimals = max(0, -floor(log10(step) + 1e-9))
    if decimals and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # 0.25
    elif not decimals and step % 1:
        decimals = 1  # 2.5
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if not value else text


def scale_for(kind: str, values: Iterable[float], *, log: bool, most: int, tight: bool) -> Scale:
    """A scale that holds all values.

    Parameters
    ----------
    kind : str
        The quantity: its unit is that of bytes, seconds, a share or none.
    values : iterable of float
        Finite; positive if ``log``. At least one.
    log : bool
        Whether it shall be logarithmic.
    most : int
        About how many ticks.
    tight : bool
        Whether it ends with the values, as a horizontal axis does, or a little beyond them.
    """
    found = [min(max(value, -_LARGEST), _LARGEST) for value in values]
    low, high = min(found), max(found)
    units = (
        _BYTES
        if kind.endswith("bytes")
        else _SECONDS
        if kind == "seconds"
        else _PERCENT
        if kind.startswith("accuracy")
        else _PLAIN
    )
    if log:
        low, high = max(low, _SMALLEST), max(high, _SMALLEST)
        span = log10(high) - log10(low)
        room = 0.0 if tight and span else min(0.03 * span, 5.0) or 0.1
        return Scale(low=low / 10**room, high=high * 10**room, log=True, units=units, most=most)
    low = min(low, 0.0) if tight else low
    room = 0.0 if tight else 0.04 * (high - low)
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, _SMALLEST):
        room = 0.5 * size if size > _SMALLEST else 0.5
    low, high = low if tight else low - room, high + room
    if kind.startswith("accuracy") and 0 <= min(found) <= max(found) <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return Scale(low=low, high=high, units=units, most=most)
