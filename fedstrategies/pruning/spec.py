"""Prunings as the command line writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from fedstrategies.pruning.global_pruning import GlobalPruning, OrderedPruning, PruningLaw
from fedstrategies.pruning.layer_criteria import (
    RIA,
    RelativeImportance,
    StochRIA,
    Symmetric,
    SymWanda,
    Wanda,
)
from fedstrategies.pruning.local_pruning import (
    FixedPruning,
    LocalPruning,
    OrderedDropout,
    UniformPruning,
)

__all__ = ["GLOBAL_PRUNINGS", "LOCAL_PRUNINGS", "parse_global_pruning", "parse_local_pruning"]

GLOBAL_PRUNINGS: Mapping[str, Callable[..., PruningLaw]] = {
    "magnitude": GlobalPruning,
    "symmetric": partial(GlobalPruning, criterion=Symmetric()),
    "ri": partial(GlobalPruning, criterion=RelativeImportance()),
    "stochri": partial(GlobalPruning, criterion=StochRIA(activations=False)),
    "wanda": partial(GlobalPruning, criterion=Wanda()),
    "output-wanda": partial(GlobalPruning, criterion=SymWanda(side="output")),
    "symwanda": partial(GlobalPruning, criterion=SymWanda()),
    "ria": partial(GlobalPruning, criterion=RIA()),
    "stochria": partial(GlobalPruning, criterion=StochRIA()),
    "ordered": OrderedPruning,
}
"""Names that `parse_global_pruning` knows."""

LOCAL_PRUNINGS: Mapping[str, str] = {
    "fixed": "fixed",
    "uniform": "uniform:q=0.5",
    "ordered": "ordered:q=0.5",
}
"""Names that `parse_local_pruning` knows, each with one valid spec."""

_WITH_RATIO: Mapping[str, Callable[..., LocalPruning]] = {
    "uniform": UniformPruning,
    "ordered": OrderedDropout,
}


def parse_global_pruning(text: str, *, keep: float | tuple[float, ...] = 1.0) -> PruningLaw:
    """A criterion at the share ``keep``, or ``ordered``.

    `FedP3` gathers the activations that some criteria need from its clients.

    Parameters
    ----------
    text : str
        One of these.
    keep : float or tuple of float
        p in [0, 1], the share that is kept: one for all clients, or one for each.

    Raises
    ------
    ValueError
        If the name is not known, or a share is outside [0, 1].
    """
    law = GLOBAL_PRUNINGS.get(text.strip())
    if law is None:
        raise ValueError(f"{text!r}: the global prunings are {', '.join(GLOBAL_PRUNINGS)}")
    return law(keep=keep)


def parse_local_pruning(text: str) -> LocalPruning:
    """``fixed``, ``uniform:q=..`` or ``ordered:q=..``.

    Parameters
    ----------
    text : str
        One of these, q in (0, 1].

    Raises
    ------
    ValueError
        If the text is none of these, or q is outside (0, 1].
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in LOCAL_PRUNINGS:
        raise ValueError(f"{text!r}: the local prunings are {', '.join(LOCAL_PRUNINGS.values())}")
    if name not in _WITH_RATIO:
        if rest:
            raise ValueError(f"{text!r}: {name} has no settings")
        return FixedPruning()
    key, _, value = (part.strip() for part in rest.partition("="))
    if key != "q":
        raise ValueError(f"{text!r}: {name} needs q and nothing else, e.g. {LOCAL_PRUNINGS[name]}")
    try:
        q = float(value)
    except ValueError:
        raise ValueError(f"{text!r}: q = {value!r} is not a number") from None
    return _WITH_RATIO[name](q=q)
