"""Small values written as text: ``name:key=value,...`` and ``key=value,...``."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite

from fedstrategies import stepsize as stepsizes
from fedstrategies.experiment.options import ConfigError

__all__ = [
    "parse_groups",
    "parse_numbers",
    "parse_probabilities",
    "parse_smoothness",
    "parse_start_point",
    "parse_stepsize",
]

_GROUPINGS = ("labels", "features", "gradients")


def parse_numbers(text: str, *, known: Collection[str], where: str) -> dict[str, float]:
    """``"a=1,b=2"`` as a mapping of finite numbers.

    Raises
    ------
    ConfigError
        For an unknown or repeated name, or a value that is not a finite number.
    """
    numbers: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known or name in numbers:
            raise ConfigError(f"{where}: {part!r}; write {','.join(f'{k}=...' for k in known)}")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ConfigError(f"{where}: {name}={value!r} is not a number") from None
        if not isfinite(numbers[name]):
            raise ConfigError(f"{where}: {name}={value} is not finite")
    return numbers


def parse_stepsize(stepsize: str | float) -> tuple[float, bool]:
    """``theory``, ``theory*4`` or a number, as (value, whether it multiplies the theory's).

    Raises
    ------
    ConfigError
        If it is none of these, or not positive and finite.
    """
    try:
        return stepsizes.parse_stepsize(stepsize)
    except ValueError as error:
        raise ConfigError(f"stepsize: {error}") from None


def parse_smoothness(text: str) -> dict[str, float]:
    """``L=..,L_tilde=..`` (either or both, ``L_max`` too), each positive.

    Raises
    ------
    ConfigError
        For another name, or a value that is not positive.
    """
    constants = parse_numbers(text, known=("L", "L_tilde", "L_max"), where="smoothness")
    if not constants:
        raise ConfigError("smoothness: nothing given; write L=...,L_tilde=...")
    for name, value in constants.items():
        if value <= 0:
            raise ConfigError(f"smoothness: {name}={value:g} is not positive")
    return constants


def parse_start_point(text: str) -> tuple[float, float]:
    """``zero`` or ``normal:loc=10[,scale=1]`` as (loc, scale) of i.i.d. normal entries.

    Raises
    ------
    ConfigError
        If it is neither, or the scale is negative.
    """
    name, _, rest = text.partition(":")
    if name == "zero" and not rest:
        return 0.0, 0.0
    if name != "normal":
        raise ConfigError(f"x0: {text!r} is not zero, glorot or normal:loc=10[,scale=1]")
    numbers = parse_numbers(rest, known=("loc", "scale"), where="x0")
    scale = numbers.get("scale", 1.0)
    if scale < 0:
        raise ConfigError(f"x0: scale={scale:g} is negative")
    return numbers.get("loc", 0.0), scale


def parse_groups(text: str, clients: int) -> tuple[tuple[int, ...], ...] | None:
    """Groups given as ``0,1,2/3,4``; None for a rule: ``contiguous``, ``features[:balanced]``, ...

    Raises
    ------
    ConfigError
        If it is neither, or a client is missing, unknown or in two groups.
    """
    name, _, how = text.partition(":")
    if (name in _GROUPINGS and how in ("", "balanced")) or text == "contiguous":
        return None
    try:
        groups = tuple(tuple(int(one) for one in group.split(",")) for group in text.split("/"))
    except ValueError:
        rules = ", ".join(f"{name}[:balanced]" for name in _GROUPINGS)
        raise ConfigError(
            f"strata: {text!r} is not {rules}, contiguous or groups like 0,1,2/3,4"
        ) from None
    if sorted(client for group in groups for client in group) != list(range(clients)):
        raise ConfigError(f"strata: {text!r} does not hold each of the {clients} clients once")
    return groups


def parse_probabilities(text: str) -> str | tuple[float, ...]:
    """``uniform``, ``mu`` or ``variance`` as it is, or numbers ``p1,p2,...`` with sum 1.

    Raises
    ------
    ConfigError
        If it is neither, or a number is not positive, or the sum is not 1.
    """
    if text in ("uniform", "mu", "variance"):
        return text
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"probabilities: {text!r} is not uniform, mu, variance or numbers like 0.2,0.8"
        ) from None
    if not all(0 < number <= 1 for number in numbers) or abs(sum(numbers) - 1) > 1e-9:
        raise ConfigError(f"probabilities: {text!r} are not positive numbers with sum 1")
    return numbers
