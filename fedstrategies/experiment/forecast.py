"""How long the rest of a run takes, measured while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LONG", "Forecast", "format_duration"]

LONG = 60.0
"""Seconds from which on somebody who waits wants to be told."""

_SURE_SECONDS = 10.0
_ENOUGH_STEPS, _ENOUGH_SECONDS = 10, 2.0


class Forecast:
    """The time that is left, from the steps of a run that were done under its eyes.

    The mean over all steps but the first, which starts pools and fills caches. Nothing is said
    before ten steps and two seconds, or one step and ten seconds: until then it is a guess.

    Parameters
    ----------
    steps : int
        How many there are in all.
    done : int, optional
        How many an earlier process did; None: the first `seen` says it.
    clock : callable
        Seconds that never go back.

    """

    def __init__(
        self,
        steps: int,
        *,
        done: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = steps
        self._clock = clock
        self._marks: list[tuple[int, float]] = [] if done is None else [(done, clock())]
        self._latest = self._marks[0] if self._marks else (0, 0.0)

    def seen(self, step: int) -> None:
        """That a step was done, by its number."""
        self._latest = step, self._clock()
        if len(self._marks) < 2:
            self._marks.append(self._latest)

    @property
    def _base(self) -> tuple[int, float]:
        """From where on steps count: after the first, if there was another since."""
        later = [mark for mark in self._marks if mark[0] < self._latest[0]]
        return later[-1] if later else self._latest

    @property
    def first(self) -> int:
        """The first step that counts."""
        return self._base[0] + 1

    @property
    def last(self) -> int:
        """The last step that was seen."""
        return self._latest[0]

    @property
    def left(self) -> float | None:
        """Seconds for the steps that are left; None while it is not known."""
        if not self._marks:
            return None
        (begun, start), (step, now) = self._marks[0], self._latest
        count, passed = step - begun, now - start
        sure = count >= 1 and passed >= _SURE_SECONDS
        if not sure and not (count >= _ENOUGH_STEPS and passed >= _ENOUGH_SECONDS):
            return None
        base, since = self._base
        return (self._steps - step) * (now - since) / (step - base)


def format_duration(seconds: float) -> str:
    """For reading, in at most two units.

    >>> format_duration(45.2), format_duration(700), format_duration(12000)
    ('45 s', '12 min', '3 h 20 min')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
