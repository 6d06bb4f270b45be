"""Options as dataclass fields, and the views derived from them.

A configuration is a frozen dataclass whose fields say everything there is to say about an
option: its type, default, help text, choices and bounds. Command line, run configuration of a
Flower app and TOML file are computed from the fields here and written nowhere else.

In every view an option has one kebab-case key. TOML has no null: an empty string means "not
set".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["ConfigError", "Option", "Scalar", "coerce_fields", "from_view", "option", "options"]

Scalar: TypeAlias = str | int | float | bool
View = Literal["command line", "app"]

_METADATA_KEY = "fedstrategies.option"
_Config = TypeVar("_Config")


class ConfigError(ValueError):
    """A configuration that cannot be run: one line saying which option is wrong and why."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field's metadata says, completed by its name, type and default.

    Attributes
    ----------
    name : str
        The dataclass field.
    key : str
        The same in every view, in kebab case.
    app_key : str or None
        Key in the run configuration of a Flower app; None: absent there.
    types : tuple of type
        Accepted types, most specific first; ``NoneType`` if it may be unset.
    default : Scalar or None
        Value when nothing is said.
    help, metavar, group : str
        For the command line.
    choices : tuple of str
        Accepted values; empty: any.
    at_least, above, below : float or None
        Bounds of a number: ``at_least <= value``, ``above < value < below``.
    hidden : bool
        Left out of the command line's help.
    """

    name: str
    key: str
    app_key: str | None
    types: tuple[type, ...]
    default: Scalar | None
    help: str
    metavar: str
    group: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    hidden: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether the option is a yes or no."""
        return self.types == (bool,)

    def coerce(self, value: object) -> Scalar | None:
        """``value`` as this option's type; text is parsed.

        Raises
        ------
        ConfigError
            If it is of another type, not among the choices or out of bounds.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            if NoneType in self.types:
                return None
            raise ConfigError(f"{self.key}: a value is needed")
        for kind in self.types:
            converted = _convert(value, kind)
            if converted is not None:
                return self._checked(converted)
        expected = " or ".join(_NAMES[kind] for kind in self.types if kind is not NoneType)
        raise ConfigError(f"{self.key}: {value!r} is not {expected}")

    def _checked(self, value: Scalar) -> Scalar:
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.key}: {value!r} is not one of {', '.join(self.choices)}")
        if isinstance(value, str):
            return value
        if self.at_least is not None and value < self.at_least:
            raise ConfigError(f"{self.key}: {value} is below {self.at_least:g}")
        if self.above is not None and value <= self.above:
            raise ConfigError(f"{self.key}: {value} is not above {self.above:g}")
        if self.below is not None and value >= self.below:
            raise ConfigError(f"{self.key}: {value} is not below {self.below:g}")
        return value


_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
}
_BOOLEANS = {"true": True, "false": False}


def _convert(value: object, kind: type) -> Scalar | None:
    """``value`` as ``kind``, or None where it is not one."""
    if kind is bool:
        if isinstance(value, str):
            return _BOOLEANS.get(value.strip().lower())
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if kind is str:
        return value if isinstance(value, str) else None
    if kind not in (int, float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not isfinite(number):
        return None
    if kind is float:
        return number
    return int(value) if number.is_integer() and _is_whole(value) else None


def _is_whole(value: str | int | float) -> bool:
    """Whether ``int(value)`` is exact: text such as 1e3 is a number but not written as one."""
    return not isinstance(value, str) or value.strip().lstrip("+-").isdigit()


def option(
    default: Scalar | None,
    help: str,
    *,
    group: str,
    key: str | None = None,
    app_key: str | Literal[False] | None = None,
    metavar: str = "",
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    hidden: bool = False,
) -> Any:
    """A dataclass field that is an option; see `Option` for the meaning of the arguments.

    ``key`` and ``app_key`` default to the field's name in kebab case; ``app_key=False`` keeps
    the option out of Flower apps.
    """
    facts = {
        "help": help,
        "group": group,
        "key": key,
        "app_key": app_key,
        "metavar": metavar,
        "choices": choices,
        "at_least": at_least,
        "above": above,
        "below": below,
        "hidden": hidden,
    }
    return field(default=default, metadata={_METADATA_KEY: facts})


def options(config_class: type) -> tuple[Option, ...]:
    """The options of a configuration dataclass, in the order of its fields."""
    return tuple(_options(config_class))


def _options(config_class: type) -> Iterator[Option]:
    hints = get_type_hints(config_class)
    for entry in fields(config_class):
        facts = entry.metadata.get(_METADATA_KEY)
        if facts is None:
            continue
        facts = dict(facts)
        default: Any = entry.default
        key = facts.pop("key") or entry.name.replace("_", "-")
        app_key = facts.pop("app_key")
        types = _accepted_types(hints[entry.name])
        metavar = facts.pop("metavar") or "|".join(facts["choices"]) or _metavar(types)
        yield Option(
            name=entry.name,
            key=key,
            app_key=None if app_key is False else app_key or key,
            types=types,
            default=default,
            metavar=metavar,
            **facts,
        )


def _accepted_types(hint: Any) -> tuple[type, ...]:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    # A number written as text must become a number, so str is tried last.
    return tuple(sorted(kinds, key=lambda kind: (kind is str, kind is NoneType)))


def _metavar(types: tuple[type, ...]) -> str:
    return "TEXT" if str in types else "INTEGER" if int in types else "NUMBER"


def coerce_fields(config: object) -> None:
    """Coerce and check every option of a frozen dataclass under construction.

    Raises
    ------
    ConfigError
        Naming the first option that is wrong.
    """
    for entry in options(type(config)):
        object.__setattr__(config, entry.name, entry.coerce(getattr(config, entry.name)))


def from_view(
    config_class: type[_Config], values: Mapping[str, object], *, view: View = "command line"
) -> dict[str, object]:
    """Keyword arguments for ``config_class`` from a mapping with the keys of a view.

    Raises
    ------
    ConfigError
        If a key is not an option.
    """
    names = {
        entry.app_key if view == "app" else entry.key: entry.name for entry in options(config_class)
    }
    unknown = [key for key in values if key not in names]
    if unknown:
        known = ", ".join(sorted(key for key in names if key))
        raise ConfigError(f"unknown option {unknown[0]!r}; the options are {known}")
    return {names[key]: value for key, value in values.items()}
