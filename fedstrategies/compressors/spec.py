"""Compressors as the command line writes them: ``top-k:k=5+natural``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedstrategies.compressors.base import Compressor
from fedstrategies.compressors.cast import Cast
from fedstrategies.compressors.comp import CompK
from fedstrategies.compressors.composition import Composition
from fedstrategies.compressors.identity import Identity
from fedstrategies.compressors.mix import MixK
from fedstrategies.compressors.natural import Natural
from fedstrategies.compressors.qsgd import QSGD
from fedstrategies.compressors.randk import RandK, ScaledRandK
from fedstrategies.compressors.topk import TopK

__all__ = ["COMPRESSOR_EXAMPLES", "parse_compressor"]


@dataclass(frozen=True, kw_only=True)
class _Operator:
    """How to build one operator from its options."""

    build: Callable[..., Compressor]
    options: Mapping[str, type[int] | type[float] | type[str]]
    example: str
    positional: str | None = None


_ONE_SIZE = {"k": int, "fraction": float}
_TWO_SIZES = {"k": int, "k_prime": int, "fraction": float, "fraction_prime": float}
_OPERATORS = {
    "identity": _Operator(build=Identity, options={}, example="identity"),
    "top-k": _Operator(build=TopK, options=_ONE_SIZE, example="top-k:k=5"),
    "rand-k": _Operator(build=RandK, options=_ONE_SIZE, example="rand-k:k=5"),
    "scaled-rand-k": _Operator(
        build=ScaledRandK, options=_ONE_SIZE, example="scaled-rand-k:fraction=0.01"
    ),
    "mix": _Operator(build=MixK, options=_TWO_SIZES, example="mix:k=1,k_prime=5"),
    "comp": _Operator(build=CompK, options=_TWO_SIZES, example="comp:k=1,k_prime=56"),
    "natural": _Operator(build=Natural, options={}, example="natural"),
    "qsgd": _Operator(build=QSGD, options={"levels": int}, example="qsgd:levels=8"),
    "cast": _Operator(
        build=Cast, options={"dtype": str}, example="cast:bfloat16", positional="dtype"
    ),
}

COMPRESSOR_EXAMPLES: Mapping[str, str] = {
    name: operator.example for name, operator in _OPERATORS.items()
}
"""Each known name with one valid spec."""


@lru_cache(maxsize=64)
def parse_compressor(text: str) -> Compressor:
    """The operator that ``text`` names; inverse of `Compressor.spec`.

    Parameters
    ----------
    text : str
        ``name`` or ``name:option=value,option=value``, several joined by ``+`` from the first
        applied to the last.

    Returns
    -------
    Compressor
        A single operator, or a `Composition`.

    Raises
    ------
    ValueError
        If a name, an option or a value is not known; the message lists those that are.

    Examples
    --------
    >>> from fedstrategies import parse_compressor
    >>> parse_compressor("rand-k:fraction=0.25").kept(100)
    25
    >>> parse_compressor("top-k:k=5+natural").spec
    'top-k:k=5+natural'
    """
    stages = tuple(_parse_one(part.strip(), text) for part in text.split("+"))
    return stages[0] if len(stages) == 1 else Composition(stages=stages)


def _parse_one(part: str, text: str) -> Compressor:
    name, _, arguments = part.partition(":")
    if name not in _OPERATORS:
        raise ValueError(
            f"unknown compressor {name!r} in {text!r}; known: {', '.join(_OPERATORS)} (joined by +)"
        )
    operator = _OPERATORS[name]
    values: dict[str, Any] = {}
    for argument in arguments.split(",") if arguments else []:
        option, separator, value = (piece.strip() for piece in argument.partition("="))
        if not separator and operator.positional is not None:
            option, value = operator.positional, option
        if option not in operator.options:
            raise ValueError(f"{name} has no option {option!r} in {text!r}; {_usage(name)}")
        if option in values:
            raise ValueError(f"{option} is given twice in {text!r}")
        try:
            values[option] = operator.options[option](value)
        except ValueError:
            kind = "a whole number" if operator.options[option] is int else "a number"
            raise ValueError(
                f"{option} must be {kind}, got {value!r} in {text!r}; {_usage(name)}"
            ) from None
    try:
        return operator.build(**values)
    except ValueError as error:
        raise ValueError(f"{error} in {text!r}; {_usage(name)}") from None
    except TypeError:
        raise ValueError(f"{name} lacks an option in {text!r}; {_usage(name)}") from None


def _usage(name: str) -> str:
    operator = _OPERATORS[name]
    takes = ", ".join(operator.options) or "none"
    return f"options of {name}: {takes} (as in {operator.example})"
