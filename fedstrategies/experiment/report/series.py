"""One line and its band: the median over seeds, and from their least to their largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.plots import abscissa

__all__ = ["Series", "median_of", "series_of"]

_MOST_POINTS = 240


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of a curve, by round.

    Attributes
    ----------
    seeds : int
        How many histories it stands for.
    x, y : tuple of float
        Medians over the seeds.
    low, high : tuple of float
        The least and the largest y; y itself for a single seed.
    """

    seeds: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def series_of(histories: Sequence[Sequence[HistoryRecord]], x: str, y: str) -> Series:
    """Median and range over histories, round by round, where all of them have measured y.

    It ends with the shortest history: a median over those that go on would be of other runs than
    before. Bytes, cost and seconds of a point are medians over the seeds as well. At most some
    240 points are kept, the first and the last among them.

    Parameters
    ----------
    histories : sequence of sequence of dict
        One for each seed.
    x : str
        One of `fedstrategies.experiment.plots.X_AXES`.
    y : str
        A key of the records.
    """
    tables = []
    for records in histories:
        points = {
            record["round"]: (float(at), float(record[y]))
            for record in records
            if y in record and (at := abscissa(record, x)) is not None
        }
        tables.append(points)
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    shared = _thinned(shared)
    columns = [[table[number] for table in tables] for number in shared]
    return Series(
        seeds=len(tables),
        x=tuple(median_of([at for at, _ in column]) for column in columns),
        y=tuple(median_of([value for _, value in column]) for column in columns),
        low=tuple(min(value for _, value in column) for column in columns),
        high=tuple(max(value for _, value in column) for column in columns),
    )


def median_of(values: Sequence[float]) -> float:
    """The median, of an even number of values the mean of the two in the middle."""
    # Halves, so that the mean of two huge numbers is not infinite.
    return 2 * median([value / 2 for value in values])


def _thinned(rounds: list[int | float]) -> list[int | float]:
    step = -(-len(rounds) // _MOST_POINTS) or 1
    return rounds[::step] + (rounds[-1:] if (len(rounds) - 1) % step else [])
