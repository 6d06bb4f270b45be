"""The command line's view of a configuration: one Typer option per field."""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from fedstrategies.experiment.families import all_options
from fedstrategies.experiment.options import Option

__all__ = ["with_experiment_options"]


def with_experiment_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(*, given, ...)`` one option per field of the configuration.

    ``given`` receives the options that were written on the command line, as a mapping from
    their keys, over those of the file in ``--config`` (its ``maps``, in this order); it replaces
    the parameter of that name in the command's signature.
    """
    entries = all_options()

    @wraps(command)
    def wrapper(config_file: Path | None = None, **arguments: Any) -> None:
        written = {entry.key: arguments.pop(entry.name) for entry in entries}
        given: dict[str, object] = {k: value for k, value in written.items() if value is not None}
        command(given=ChainMap(given, _from_file(config_file)), **arguments)

    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "given"
    ]
    added = [_parameter("config_file", _CONFIG_FILE), *(_of_entry(entry) for entry in entries)]
    signature = inspect.Signature([*own, *added])
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    return wrapper


_CONFIG_FILE = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="read options from a TOML file; those written here win",
        rich_help_panel="Output",
    ),
]


def _from_file(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    from fedstrategies.experiment.views import read_mapping

    return {key: value for key, value in read_mapping(path).items() if key != "algorithm"}


def _of_entry(entry: Option) -> inspect.Parameter:
    """An option whose absence can be told from its default."""
    known = "" if entry.default is None or entry.is_flag else f" (default {entry.default})"
    facts: dict[str, Any] = {
        "help": entry.help + known,
        "hidden": entry.hidden,
        "rich_help_panel": entry.group,
        "show_default": False,
    }
    if entry.is_flag:
        return _parameter(
            entry.name, Annotated[bool | None, typer.Option(f"--{entry.key}", **facts)]
        )
    facts["metavar"] = entry.metavar
    return _parameter(entry.name, Annotated[str | None, typer.Option(f"--{entry.key}", **facts)])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
