"""What a strategy is, apart from what moves: compared before it goes on from a checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from math import isclose
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["difference", "fingerprint"]

# Settings that decide nothing of what is computed, and those that are compared by what follows
# from them: cohorts by their law, L by the step size.
_FREE = {
    "arrayrecord_key",
    "configrecord_key",
    "evaluate_metrics_aggr_fn",
    "fraction_evaluate",
    "fraction_train",
    "memory_budget",
    "min_available_nodes",
    "min_evaluate_nodes",
    "min_train_nodes",
    "num_clients",
    "sampling",
    "smoothness",
    "train_metrics_aggr_fn",
    "weighted_by_key",
}
_LONG = 200
_SAME = 1e-9
"""Relative: the constants of a problem may have other last bits on another machine."""


def fingerprint(strategy: BaseStrategy) -> dict[str, str | float]:
    """What can be told of a strategy that is set up, by name.

    Its method and model, n, the seed, every setting of its constructors that decides what is
    computed and says what it is, and the constants that were chosen for it. Settings that do not
    say what they are (a function, an object without a ``__repr__``) are left out.
    """
    layout = strategy.layout
    found: dict[str, str | float] = {
        "strategy": type(strategy).__name__,
        "clients": strategy.clients,
        "parameters": len(strategy.x),
        "dtype": str(strategy.x.dtype).removeprefix("torch."),
        "entries": _short(", ".join(map(str, zip(layout.names, layout.shapes, strict=True)))),
        "entries that are not trained": _checksum(strategy),
        "sampling": _short(repr(strategy.sampling_of(strategy.clients))),
    }
    for name in _settings(type(strategy)):
        value = getattr(strategy, name, None)
        spec = getattr(value, "spec", None)
        said = spec if isinstance(spec, str) else repr(value)
        if " at 0x" not in said:
            found[name] = _short(said)
    found["copy of the memories"] = str(strategy.memory is not None)
    # Last, as they follow from the settings.
    found["step size"] = strategy.gamma
    return found | {name: float(value) for name, value in strategy.constants.items()}


def difference(kept: Mapping[str, str | float], here: Mapping[str, str | float]) -> str | None:
    """The first thing that two fingerprints do not agree on, in a sentence; None: nothing."""
    for name in (*here, *(name for name in kept if name not in here)):
        there, value = kept.get(name), here.get(name)
        if isinstance(there, int | float) and isinstance(value, int | float):
            if isclose(there, value, rel_tol=_SAME) or there == value:
                continue
        elif there == value or (there is None and value == "None"):
            continue  # what an earlier version did not know, and is not used here, is no difference
        return f"of a run with {name} = {there}, this one has {value}; build the strategy as it was"
    return None


def _settings(kind: type) -> Iterator[str]:
    """Names of the keyword arguments of a class's constructors."""
    seen = set(_FREE)
    for one in kind.__mro__:
        if "__init__" in vars(one) and one is not object:
            for name, parameter in signature(vars(one)["__init__"]).parameters.items():
                if parameter.kind is Parameter.KEYWORD_ONLY and name not in seen:
                    seen.add(name)
                    yield name


def _short(text: str) -> str:
    """A long text by its beginning and its checksum."""
    if len(text) <= _LONG:
        return text
    return f"{text[:_LONG]}... ({zlib.crc32(text.encode()):08x})"


def _checksum(strategy: BaseStrategy) -> str:
    found = 0
    for name, array in strategy.carried.items():
        found = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), found)
        found = zlib.crc32(array.data, found)
    return f"{len(strategy.carried)} with checksum {found:08x}"
