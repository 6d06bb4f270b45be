"""Methods and patterns of post-training pruning as the command line writes them.

``ria``, ``ria:exponent=0.5,p=2``, ``dsnot:initial=ria``; ``2:4``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from fedstrategies.pruning.criterion import LayerCriterion, Magnitude
from fedstrategies.pruning.layer_criteria import (
    RIA,
    RelativeImportance,
    StochRIA,
    Symmetric,
    SymWanda,
    Wanda,
)
from fedstrategies.pruning.method import Per, PruningMethod
from fedstrategies.pruning.norms import Subsets
from fedstrategies.pruning.patterns import SemiStructured
from fedstrategies.pruning.regrowing import Regrowing

__all__ = ["PRUNING_METHODS", "parse_method", "parse_pattern"]


def _wanda(*, per: Per = "row") -> PruningMethod:
    return PruningMethod(criterion=Wanda(), per=per)


def _output_wanda(*, per: Per = "matrix") -> PruningMethod:
    return PruningMethod(criterion=SymWanda(side="output"), per=per)


def _symwanda(*, per: Per = "matrix") -> PruningMethod:
    return PruningMethod(criterion=SymWanda(), per=per)


def _magnitude(*, per: Per = "matrix") -> PruningMethod:
    return PruningMethod(criterion=Magnitude(), per=per)


def _symmetric(*, per: Per = "matrix") -> PruningMethod:
    return PruningMethod(criterion=Symmetric(), per=per)


def _ri(*, p: float = 1.0, per: Per = "matrix") -> PruningMethod:
    return PruningMethod(criterion=RelativeImportance(p=p), per=per)


def _ria(*, exponent: float = 0.5, p: float = 1.0, per: Per = "matrix") -> PruningMethod:
    return PruningMethod(criterion=RIA(exponent=exponent, p=p), per=per)


def _stochri(
    *, share: float = 0.1, seed: int = 0, shared: bool = False, p: float = 1.0, per: Per = "matrix"
) -> PruningMethod:
    subsets = Subsets(share=share, seed=seed, shared=shared)
    return PruningMethod(criterion=StochRIA(subsets=subsets, activations=False, p=p), per=per)


def _stochria(
    *,
    share: float = 0.1,
    seed: int = 0,
    shared: bool = False,
    exponent: float = 0.5,
    p: float = 1.0,
    per: Per = "matrix",
) -> PruningMethod:
    subsets = Subsets(share=share, seed=seed, shared=shared)
    criterion = StochRIA(subsets=subsets, exponent=exponent, p=p)
    return PruningMethod(criterion=criterion, per=per)


def _dsnot(
    *,
    initial: str = "wanda",
    cycles: str = "auto",
    threshold: float = 0.1,
    variance_power: float = 1.0,
    same_sign: bool = False,
    fixed: str = "",
) -> PruningMethod:
    swaps = Regrowing(
        cycles=_cycles(cycles),
        threshold=threshold,
        variance_power=variance_power,
        same_sign=same_sign,
    )
    return PruningMethod(criterion=_initial(initial), regrowing=swaps, fixed=fixed)


def _r2_dsnot(
    *,
    initial: str = "wanda",
    cycles: str = "auto",
    threshold: float = 0.1,
    variance_power: float = 1.0,
    same_sign: bool = False,
    reweigh: str = "grow",
    exponent: float = 0.5,
    gamma_grow: float = 1e-4,
    gamma_prune: float = 1e-4,
    p: float = 1.0,
    fixed: str = "",
) -> PruningMethod:
    swaps = Regrowing(
        cycles=_cycles(cycles),
        threshold=threshold,
        variance_power=variance_power,
        same_sign=same_sign,
        exponent=exponent,
        reweigh=reweigh,  # type: ignore[arg-type]  # looked at there
        gamma_grow=gamma_grow,
        gamma_prune=gamma_prune,
        p=p,
    )
    return PruningMethod(criterion=_initial(initial), regrowing=swaps, fixed=fixed)


def _cycles(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise ValueError(f"cycles = {text!r} is neither a whole number nor auto")
    return int(text)


def _initial(name: str) -> LayerCriterion:
    if name not in _PLAIN:
        raise ValueError(f"initial = {name!r} is not one of {', '.join(_PLAIN)}")
    return _PLAIN[name]().criterion


_PLAIN: Mapping[str, Callable[..., PruningMethod]] = {
    "magnitude": _magnitude,
    "wanda": _wanda,
    "output-wanda": _output_wanda,
    "symwanda": _symwanda,
    "symmetric": _symmetric,
    "ri": _ri,
    "ria": _ria,
    "stochri": _stochri,
    "stochria": _stochria,
}

PRUNING_METHODS: Mapping[str, Callable[..., PruningMethod]] = {
    **_PLAIN,
    "dsnot": _dsnot,
    "r2-dsnot": _r2_dsnot,
}
"""Names that `parse_method` knows, each with what builds it from its options."""


def parse_method(text: str) -> PruningMethod:
    """The method that ``text`` names, with its options.

    Parameters
    ----------
    text : str
        ``name`` or ``name:option=value,option=value``; flags are ``yes`` or ``no``.

    Raises
    ------
    ValueError
        If a name, an option or a value is not known; the message lists those that are.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    build = PRUNING_METHODS.get(name)
    if build is None:
        raise ValueError(f"{text!r}: the pruning methods are {', '.join(PRUNING_METHODS)}")
    defaults = {key: one.default for key, one in signature(build).parameters.items()}
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        option, _, value = (piece.strip() for piece in part.partition("="))
        if option not in defaults:
            raise ValueError(
                f"{text!r}: {name} has no option {option!r}; it has {', '.join(defaults)}"
            )
        if option in given:
            raise ValueError(f"{text!r}: {option} is given twice")
        given[option] = _value(text, option, value, defaults[option])
    try:
        return build(**given)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def _value(text: str, option: str, value: str, default: Any) -> Any:
    if option == "per" and value not in ("row", "matrix"):
        raise ValueError(f"{text!r}: per = {value!r} is not one of row, matrix")
    if isinstance(default, bool):
        if value not in ("yes", "no"):
            raise ValueError(f"{text!r}: {option} = {value!r} is not one of yes, no")
        return value == "yes"
    try:
        return type(default)(value)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{text!r}: {option} = {value!r} is not {kind}") from None


def parse_pattern(text: str) -> SemiStructured:
    """The pattern that ``text`` names.

    Parameters
    ----------
    text : str
        ``n:m``, as in ``2:4``.

    Raises
    ------
    ValueError
        If the text is none, or not 1 <= n < m.
    """
    kept, _, of = text.partition(":")
    try:
        numbers = int(kept), int(of)
    except ValueError:
        raise ValueError(f"pattern {text!r}: expected n:m, as in 2:4") from None
    return SemiStructured(kept=numbers[0], of=numbers[1])
