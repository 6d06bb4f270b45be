"""Partitions as the command line writes them: ``dirichlet:alpha=0.5``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType

from fedstrategies.data.errors import DataError

__all__ = ["ASSIGNMENTS", "PARTITIONS", "PARTITION_EXAMPLES", "PartitionSpec", "parse_partition"]

Value = int | float | str


@dataclass(frozen=True, kw_only=True)
class PartitionSpec:
    """A partition's name and the options that were given.

    Attributes
    ----------
    name : str
        One of `PARTITIONS`.
    options : mapping of str to (int, float or str)
        Parsed and each valid in itself.
    """

    name: str
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Option:
    """One option: how to read it, and what to write instead where ``read`` raises."""

    read: Callable[[str], Value]
    wanted: str


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What may be written after a name."""

    example: str
    options: Mapping[str, _Option] = field(default_factory=dict)
    required: str | None = None


def _positive(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value > 0.0):
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _assignment(text: str) -> str:
    if text not in ASSIGNMENTS:
        raise ValueError
    return text


ASSIGNMENTS = ("first-deterministic", "deterministic", "random")
"""Ways in which ``classes`` chooses the classes of a client."""

_POSITIVE = _Option(read=_positive, wanted="a positive number")
_COUNT = _Option(read=_count, wanted="a whole number from 1 on")
_ASSIGNMENT = _Option(read=_assignment, wanted=f"one of {', '.join(ASSIGNMENTS)}")
_KINDS = {
    "contiguous": _Kind(example="contiguous"),
    "iid": _Kind(example="iid"),
    "dirichlet": _Kind(
        example="dirichlet:alpha=0.5",
        options={"alpha": _POSITIVE, "min_size": _COUNT},
        required="alpha",
    ),
    "classes": _Kind(
        example="classes:per_client=2",
        options={"per_client": _COUNT, "assignment": _ASSIGNMENT},
        required="per_client",
    ),
    "features": _Kind(example="features", options={"clusters": _COUNT}),
    "natural": _Kind(example="natural"),
}

PARTITIONS = tuple(_KINDS)
"""Names that `parse_partition` knows."""

PARTITION_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {name: kind.example for name, kind in _KINDS.items()}
)
"""Each known name with one valid spec."""


def parse_partition(text: str) -> PartitionSpec:
    """What ``text`` asks for, without looking at any data.

    Parameters
    ----------
    text : str
        ``name`` or ``name:option=value,option=value``.

    Raises
    ------
    DataError
        If the name, an option or a value is not known, or a required option is missing; the
        message says what may be written.
    """
    name, colon, rest = (piece.strip() for piece in text.partition(":"))
    if name not in _KINDS:
        raise DataError(
            f"unknown partition {text!r}; known: {', '.join(PARTITION_EXAMPLES.values())}"
        )
    kind = _KINDS[name]
    options: dict[str, Value] = {}
    for piece in rest.split(",") if colon else []:
        option, _, value = (part.strip() for part in piece.partition("="))
        if option not in kind.options:
            raise DataError(f"partition {text!r}: no option {option!r}; {_usage(name)}")
        if option in options:
            raise DataError(f"partition {text!r}: {option} is given twice")
        try:
            options[option] = kind.options[option].read(value)
        except ValueError:
            raise DataError(
                f"partition {text!r}: {option} must be {kind.options[option].wanted}, got {value!r}"
            ) from None
    if kind.required and kind.required not in options:
        raise DataError(f"partition {text!r}: {kind.required} is missing; {_usage(name)}")
    return PartitionSpec(name=name, options=options)


def _usage(name: str) -> str:
    takes = ", ".join(_KINDS[name].options) or "none"
    return f"options of {name}: {takes} (as in {_KINDS[name].example})"
