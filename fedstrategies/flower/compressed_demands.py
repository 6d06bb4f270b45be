"""What Flower's strategies ask of replies, asked of each reply before they see any.

`flwr.serverapp.strategy.FedAvg`, and what is derived from it, ends the run if one reply has other
records or other metrics than the rest, and divides by a sum of weights that it does not look at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import isfinite

from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from fedstrategies.flower.records import records_of

__all__ = ["Demands"]


class Demands:
    """What the strategies that a round's replies go through ask of them; nothing of others.

    Parameters
    ----------
    strategies : iterable of Strategy
        The strategy, what it wraps, and so on.
    """

    def __init__(self, strategies: Iterable[Strategy]) -> None:
        self._keys = [one.weighted_by_key for one in strategies if isinstance(one, FedAvg)]

    def require_weight(self, content: RecordDict) -> None:
        """Refuse a reply without one record of metrics, or whose weight is no weight.

        Raises
        ------
        ValueError
            If it is so.
        """
        for key in self._keys:
            found = records_of(content, MetricRecord)
            if len(found) != 1:
                raise ValueError(f"{len(found)} MetricRecords, the strategy asks for one")
            weight = found[0].get(key)
            if not isinstance(weight, int | float):
                raise ValueError(f"its metrics have no number {key!r}, by which it is weighted")
            if not _is_weight(weight):
                raise ValueError(f"{key!r} = {weight!r} is no weight")

    def unfit(self, contents: Mapping[int, RecordDict]) -> dict[int, str]:
        """Of replies by node those that cannot be aggregated with the rest, and why.

        That is those with other names than most; of several forms that are as frequent the first
        counts. And all of them if nobody has a weight.
        """
        if not self._keys or not contents:
            return {}
        forms = {node: _form(content) for node, content in contents.items()}
        ((usual, _),) = Counter(forms.values()).most_common(1)
        found = {
            node: f"records or metrics unlike most replies': {', '.join(sorted(form))[:300]}"
            for node, form in forms.items()
            if form != usual
        }
        for key in self._keys:
            if not any(_weight(contents[node], key) for node in contents if node not in found):
                found = {**dict.fromkeys(contents, f"{key!r} is 0, in all replies"), **found}
        return found


def _weight(content: RecordDict, key: str) -> object:
    return records_of(content, MetricRecord)[0][key]


def _is_weight(weight: float) -> bool:
    try:
        return isfinite(weight) and weight >= 0
    except OverflowError:  # an integer beyond all floats
        return False


def _form(content: RecordDict) -> frozenset[str]:
    """The names of a reply's model and metrics, and the lengths of lists."""
    form = set()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            form.add(f"arrays {name}")
        elif isinstance(record, MetricRecord):
            form |= {
                f"metric {name}/{key}" + (f" of {len(one)}" if isinstance(one, list) else "")
                for key, one in record.items()
            }
    return frozenset(form)
